#include "vmm/cli/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

struct Unit {
  std::string_view name;  // lower case
  uint64_t factor;
};

constexpr std::array<Unit, 14> kByteUnits = {{{"", 1},
                                              {"b", 1},
                                              {"k", uint64_t{1} << 10},
                                              {"kb", uint64_t{1} << 10},
                                              {"kib", uint64_t{1} << 10},
                                              {"m", uint64_t{1} << 20},
                                              {"mb", uint64_t{1} << 20},
                                              {"mib", uint64_t{1} << 20},
                                              {"g", uint64_t{1} << 30},
                                              {"gb", uint64_t{1} << 30},
                                              {"gib", uint64_t{1} << 30},
                                              {"t", uint64_t{1} << 40},
                                              {"tb", uint64_t{1} << 40},
                                              {"tib", uint64_t{1} << 40}}};

constexpr std::array<Unit, 5> kTimeUnits = {
    {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000}, {"d", 24 * 60 * 60 * 1000}}};

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

// Returns nullptr if no unit has that name.
template <size_t N>
const Unit* FindUnit(const std::array<Unit, N>& units, const char* begin, const char* end) {
  const std::string name = Lower({begin, static_cast<size_t>(end - begin)});
  const auto* const unit = std::find_if(units.begin(), units.end(),
                                        [&](const Unit& other) { return other.name == name; });
  return unit == units.end() ? nullptr : unit;
}

absl::Status Wrong(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("'%s' %s", text.substr(0, 80), why));
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  const Unit* const unit = FindUnit(kByteUnits, stop, end);
  if (error == std::errc::invalid_argument || unit == nullptr) {
    return Wrong(text, "is not a size; write a whole number with K, M or G, like 256M");
  }
  if (error != std::errc() || number > std::numeric_limits<uint64_t>::max() / unit->factor) {
    return Wrong(text, "is more than 64 bits can count");
  }
  return number * unit->factor;
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  if (text == "0") return std::chrono::milliseconds(0);
  constexpr double kMost = kMostDays * 24.0 * 60 * 60 * 1000;
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  const Unit* const unit = FindUnit(kTimeUnits, stop, end);
  // Excludes "nan" and "-1".
  const bool digit = !text.empty() && text.front() >= '0' && text.front() <= '9';
  if (!digit || error == std::errc::invalid_argument || unit == nullptr) {
    return Wrong(text, "is not a duration; write a number with ms, s, m, h or d, like 10s or 0.5s");
  }
  const double ms = number * static_cast<double>(unit->factor);
  if (error != std::errc() || ms > kMost) {
    return absl::OutOfRangeError(
        absl::StrFormat("'%s' is more than the most, %ud", text.substr(0, 80), kMostDays));
  }
  const std::chrono::milliseconds rounded(std::llround(ms));
  // 0 has a special meaning.
  if (number > 0 && rounded.count() == 0) {
    return absl::OutOfRangeError(
        absl::StrFormat("'%s' is less than the least, 1ms", text.substr(0, 80)));
  }
  return rounded;
}

absl::StatusOr<uint64_t> ParseNumber(std::string_view text) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t number = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, number, base);
  if (error != std::errc() || stop != end) {
    return Wrong(text, "is not a number from 0 to 2^64-1, decimal or 0x...");
  }
  return number;
}

std::string FormatCount(uint64_t count) {
  std::string text = std::to_string(count);
  for (size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, 1, ',');
  }
  return text;
}

std::string Counted(uint64_t count, std::string_view noun) {
  return absl::StrFormat("%s %s%s", FormatCount(count), noun, count == 1 ? "" : "s");
}

std::string FormatBytes(uint64_t bytes) {
  constexpr std::array<std::string_view, 4> kNames = {"KiB", "MiB", "GiB", "TiB"};
  std::optional<std::string_view> name;
  uint64_t value = bytes;
  for (const std::string_view next : kNames) {
    if (value == 0 || value % 1024 != 0) break;
    value /= 1024;
    name = next;
  }
  return absl::StrFormat("%s %s", FormatCount(value), name.value_or("bytes"));
}

std::string FormatMicros(uint64_t us) {
  if (us < 1000) return absl::StrFormat("%u us", us);
  if (us < 1000000) return absl::StrFormat("%.1f ms", static_cast<double>(us) / 1e3);
  if (us < 60000000) return absl::StrFormat("%.1f s", static_cast<double>(us) / 1e6);
  const uint64_t seconds = us / 1000000;
  return absl::StrFormat("%s min %u s", FormatCount(seconds / 60), seconds % 60);
}

}  // namespace underfoot
