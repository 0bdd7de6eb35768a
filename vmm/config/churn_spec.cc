#include "vmm/config/churn_spec.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

struct Preset {
  std::string_view name;
  double total;
};

constexpr std::array<Preset, 2> kPresets = {{{"mixed", 2000}, {"storm", 20000}}};

std::string KnownKinds() {
  std::string list;
  for (const ChurnKindInfo& info : kChurnKinds) {
    if (!list.empty()) list += ", ";
    list += info.name;
  }
  return list;
}

absl::Status BadSpec(std::string_view part, std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("churn spec: '%s' %s; write off, mixed, storm, mixed:5000/s or "
                      "KIND:RATE/s,... with the kinds %s",
                      part, why, KnownKinds()));
}

const Preset* FindPreset(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

ChurnRates PresetRates(double total) {
  double shares = 0;
  for (const ChurnKindInfo& info : kChurnKinds) shares += info.share;
  ChurnRates rates;
  for (const ChurnKindInfo& info : kChurnKinds) rates[info.kind] = total * info.share / shares;
  return rates;
}

std::vector<std::string_view> SplitAt(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

// "2000/s" or "2000".
std::optional<double> ParseRate(std::string_view text) {
  if (text.ends_with("/s")) text.remove_suffix(2);
  double rate = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, rate);
  if (error != std::errc() || stop != end || !std::isfinite(rate) || rate < 0) return std::nullopt;
  return rate;
}

struct Part {
  std::string_view name;
  std::optional<double> rate;  // absent: the text had only the name
};

absl::StatusOr<Part> ParsePart(std::string_view text) {
  const size_t colon = text.find(':');
  Part part{.name = text.substr(0, colon), .rate = std::nullopt};
  if (part.name.empty()) return BadSpec(text, "names no kind");
  if (colon == std::string_view::npos) return part;
  part.rate = ParseRate(text.substr(colon + 1));
  if (!part.rate.has_value()) return BadSpec(text, "has no rate like 2000/s after the colon");
  if (*part.rate > kMaxChurnRate) {
    return BadSpec(text, absl::StrFormat("is more than %.0f/s", kMaxChurnRate));
  }
  return part;
}

absl::StatusOr<ChurnSpec> ParsePreset(const Preset& preset, const Part& part, ChurnSpec spec) {
  spec.preset = true;
  spec.rates = PresetRates(part.rate.value_or(preset.total));
  if (spec.TotalRate() == 0) spec.rates.clear();
  return spec;
}

}  // namespace

double ChurnSpec::TotalRate() const {
  double total = 0;
  for (const auto& [kind, rate] : rates) total += rate;
  return total;
}

absl::StatusOr<ChurnSpec> ParseChurnSpec(std::string_view text) {
  ChurnSpec spec{.text = std::string(text), .preset = false, .rates = {}};
  if (text == "off") return spec;
  const std::vector<std::string_view> parts = SplitAt(text, ',');
  for (const std::string_view text_of_part : parts) {
    const absl::StatusOr<Part> part = ParsePart(text_of_part);
    if (!part.ok()) return part.status();
    if (part->name == "off" || FindPreset(part->name) != nullptr) {
      if (parts.size() > 1) return BadSpec(text_of_part, "stands alone, without other parts");
      if (part->name == "off") return BadSpec(text_of_part, "takes no rate");
      return ParsePreset(*FindPreset(part->name), *part, spec);
    }
    const std::optional<ChurnKind> kind = FindChurnKind(part->name);
    if (!kind.has_value()) return BadSpec(part->name, "is not a kind of churn");
    if (!part->rate.has_value()) return BadSpec(part->name, "has no rate");
    if (!spec.rates.emplace(*kind, *part->rate).second) {
      return BadSpec(part->name, "is given twice");
    }
  }
  absl::StatusOr<ChurnRates> checked = CheckChurnRates(std::move(spec.rates));
  if (!checked.ok()) return checked.status();
  spec.rates = *std::move(checked);
  return spec;
}

absl::StatusOr<ChurnRates> ResolveChurn(const ChurnSpec& spec, const ChurnLimits& limits) {
  ChurnRates rates = spec.rates;
  double lost = 0;  // the shares of a preset's impossible kinds
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto found = rates.find(info.kind);
    if (found == rates.end()) continue;
    const std::string why_not = limits.UnavailableReason(info.kind);
    if (why_not.empty()) continue;
    if (!spec.preset) {
      return absl::InvalidArgumentError(absl::StrFormat("churn kind %s %s, or leave %s out of '%s'",
                                                        info.name, why_not, info.name, spec.text));
    }
    lost += found->second;
    rates.erase(found);
  }
  for (const ChurnKind heir : {ChurnKind::kDiscard, ChurnKind::kWp}) {
    if (lost == 0 || !limits.UnavailableReason(heir).empty()) continue;
    rates[heir] += std::exchange(lost, 0);
  }
  return rates;
}

std::string ChurnSpecText(const ChurnRates& rates) {
  std::string text;
  for (const auto& [kind, rate] : rates) {
    std::array<char, 64> digits{};
    const auto [end, error] =
        std::to_chars(digits.data(), digits.data() + digits.size(), rate, std::chars_format::fixed);
    // Cannot happen: a rate that passed CheckChurnRates always fits.
    if (error != std::errc()) continue;
    if (!text.empty()) text += ',';
    text += ChurnKindName(kind);
    text += ':';
    text.append(digits.data(), end);
    text += "/s";
  }
  return text.empty() ? "off" : text;
}

absl::StatusOr<ChurnRates> CheckChurnRates(ChurnRates rates) {
  for (auto at = rates.begin(); at != rates.end();) {
    const auto& [kind, rate] = *at;
    if (!(rate >= 0 && rate <= kMaxChurnRate)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("churn rate of %s is %g/s; it must be from 0 to %.0f",
                          ChurnKindName(kind), rate, kMaxChurnRate));
    }
    at = rate == 0 ? rates.erase(at) : std::next(at);
  }
  return rates;
}

}  // namespace underfoot
