#include "tests/bench/report.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace underfoot::bench {
namespace {

using Json = nlohmann::ordered_json;

const char* FigureName(Goal::Of of) {
  switch (of) {
    case Goal::Of::kRatio:
      return "ratio";
    case Goal::Of::kMedianNs:
      return "median";
    case Goal::Of::kP99Ns:
      return "p99";
  }
  return "";
}

std::string FormatNs(double ns) {
  if (ns < 9.995) return absl::StrFormat("%.2f ns", ns);
  if (ns < 99.95) return absl::StrFormat("%.1f ns", ns);
  if (ns < 999.5) return absl::StrFormat("%.0f ns", ns);
  if (ns < 9'995) return absl::StrFormat("%.2f us", ns / 1e3);
  if (ns < 99'950) return absl::StrFormat("%.1f us", ns / 1e3);
  if (ns < 999'500) return absl::StrFormat("%.0f us", ns / 1e3);
  return absl::StrFormat("%.2f ms", ns / 1e6);
}

std::string FormatBytes(double bytes) {
  if (bytes < 1e3) return absl::StrFormat("%.0f bytes", bytes);
  if (bytes < 1e6) return absl::StrFormat("%.1f KB", bytes / 1e3);
  return absl::StrFormat("%.2f MB", bytes / 1e6);
}

std::string RatioText(const VariantResult& variant) {
  if (!variant.ratio.has_value()) return "-";
  return absl::StrFormat("x%-5.2f  x%.2f..x%.2f", variant.ratio->median, variant.ratio->low,
                         variant.ratio->high);
}

std::string GoalText(const VariantResult& variant, std::string_view unit) {
  const std::optional<bool> met = variant.GoalMet();
  if (!met.has_value()) return "";
  const Goal& goal = *variant.goal;
  const std::string limit =
      goal.of == Goal::Of::kRatio
          ? absl::StrFormat("x%.2f", goal.at_most)
          : absl::StrCat(FigureName(goal.of), " ", FormatFigure(goal.at_most, unit));
  return absl::StrCat("  goal ", limit, *met ? ": met" : ": missed");
}

Json SpreadJson(const Spread& spread) {
  return {{"low", spread.low}, {"median", spread.median}, {"high", spread.high}};
}

Json VariantJson(const VariantResult& variant) {
  Json json{{"name", variant.name},
            {"samples", variant.figure.samples},
            {"median", variant.figure.median},
            {"p99", variant.figure.p99},
            {"max", variant.figure.max},
            {"round_medians", SpreadJson(variant.round_medians)},
            {"ratio", variant.ratio.has_value() ? SpreadJson(*variant.ratio) : Json()},
            {"discarded", variant.discarded}};
  if (const std::optional<bool> met = variant.GoalMet()) {
    json["goal"] = {
        {"of", FigureName(variant.goal->of)}, {"at_most", variant.goal->at_most}, {"met", *met}};
  }
  return json;
}

}  // namespace

std::string FormatFigure(double figure, std::string_view unit) {
  if (unit == "ns") return FormatNs(figure);
  if (unit == "bytes") return FormatBytes(figure);
  if (unit == "pages/s") return absl::StrFormat("%.0f pages/s", figure);
  return absl::StrFormat("%.3g %s", figure, unit);
}

std::string MachineText(const MachineInfo& machine) {
  return absl::StrFormat("%d CPUs, %s; Linux %s, %s; %s; load %.1f\n", machine.cpus, machine.cpu,
                         machine.kernel, machine.kvm, machine.compiler, machine.load);
}

std::string TableOf(const ComparisonResult& result) {
  size_t width = 0;
  for (const VariantResult& variant : result.variants) {
    width = std::max(width, variant.name.size());
  }
  std::string text =
      absl::StrFormat("\n%s: %s\n  %-*s %11s %11s  %6s  %s\n", result.name, result.what, width, "",
                      "median", "p99", "ratio", "middle half");
  for (const VariantResult& variant : result.variants) {
    if (variant.figure.samples == 0) {
      absl::StrAppendFormat(&text, "  %-*s  every turn was disturbed\n", width, variant.name);
      continue;
    }
    absl::StrAppendFormat(&text, "  %-*s %11s %11s  %s%s\n", width, variant.name,
                          FormatFigure(variant.figure.median, result.unit),
                          FormatFigure(variant.figure.p99, result.unit), RatioText(variant),
                          GoalText(variant, result.unit));
  }
  return text;
}

std::string JsonOf(const Results& results) {
  Json json{{"machine",
             {{"cpu", results.machine.cpu},
              {"cpus", results.machine.cpus},
              {"kernel", results.machine.kernel},
              {"kvm", results.machine.kvm},
              {"compiler", results.machine.compiler},
              {"load", results.machine.load}}},
            {"commit", results.commit},
            {"effort", NameOf(results.effort)},
            {"seed", results.seed},
            {"processes", results.processes}};
  if (results.others.has_value()) json["others"] = *results.others;
  json["comparisons"] = Json::array();
  json["skipped"] = Json::array();
  for (const ComparisonResult& result : results.comparisons) {
    Json variants = Json::array();
    for (const VariantResult& variant : result.variants) variants.push_back(VariantJson(variant));
    Json comparison{{"name", result.name},
                    {"what", result.what},
                    {"unit", result.unit},
                    {"rounds", result.rounds}};
    if (result.sweep.has_value()) {
      comparison["sweep"] = {{"curve", result.sweep->curve},
                             {"variable", result.sweep->variable},
                             {"value", result.sweep->value}};
    }
    comparison["variants"] = std::move(variants);
    json["comparisons"].push_back(std::move(comparison));
  }
  for (const SkippedComparison& skipped : results.skipped) {
    json["skipped"].push_back({{"name", skipped.name}, {"reason", skipped.reason}});
  }
  return json.dump(2) + "\n";
}

bool SaveJson(const std::string& path, const Results& results) {
  const std::string fresh = path + ".new";
  std::ofstream file(fresh);
  file << JsonOf(results);
  file.close();
  if (file && std::rename(fresh.c_str(), path.c_str()) == 0) return true;
  static_cast<void>(std::remove(fresh.c_str()));  // there need not be one
  return false;
}

}  // namespace underfoot::bench
