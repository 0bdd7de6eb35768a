#include "vmm/cli/units.h"

#include <algorithm>
#include <array>
#include <charconv>
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

constexpr std::array<Unit, 4> kTimeUnits = {
    {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000}}};

enum class Parse : uint8_t { kOk, kNoNumber, kNoUnit, kOverflow };

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

template <size_t N>
Parse ParseWithUnit(std::string_view text, const std::array<Unit, N>& units, uint64_t* value) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc::result_out_of_range) return Parse::kOverflow;
  if (error != std::errc()) return Parse::kNoNumber;
  const std::string name = Lower({stop, static_cast<size_t>(end - stop)});
  for (const Unit& unit : units) {
    if (unit.name != name) continue;
    if (number > std::numeric_limits<uint64_t>::max() / unit.factor) return Parse::kOverflow;
    *value = number * unit.factor;
    return Parse::kOk;
  }
  return Parse::kNoUnit;
}

absl::Status Wrong(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("'%s' %s", text.substr(0, 80), why));
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  uint64_t bytes = 0;
  switch (ParseWithUnit(text, kByteUnits, &bytes)) {
    case Parse::kOk:
      return bytes;
    case Parse::kOverflow:
      return Wrong(text, "is more than 64 bits can count");
    case Parse::kNoNumber:
    case Parse::kNoUnit:
      return Wrong(text, "is no size; write a whole number with K, M or G, like 256M");
  }
  return absl::InternalError("unreachable");
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  if (text == "0") return std::chrono::milliseconds(0);
  constexpr uint64_t kMost = uint64_t{365} * 24 * 60 * 60 * 1000;
  uint64_t ms = 0;
  switch (ParseWithUnit(text, kTimeUnits, &ms)) {
    case Parse::kOk:
      if (ms > kMost) return Wrong(text, "is more than a year; write 0 for no end");
      return std::chrono::milliseconds(ms);
    case Parse::kOverflow:
      return Wrong(text, "is more than a year; write 0 for no end");
    case Parse::kNoNumber:
    case Parse::kNoUnit:
      return Wrong(text, "is no duration; write a whole number with ms, s, m or h, like 10s");
  }
  return absl::InternalError("unreachable");
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
    return Wrong(text, "is no number from 0 to 2^64-1, decimal or 0x...");
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
