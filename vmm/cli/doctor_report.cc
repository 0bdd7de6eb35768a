// Formats the doctor's findings as text and JSON.

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/cli/doctor.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

std::string_view ResultName(CheckResult result) {
  switch (result) {
    case CheckResult::kOk:
      return "ok";
    case CheckResult::kLess:
      return "less";
    case CheckResult::kMissing:
      return "missing";
  }
  return "unknown";
}

// The names of the checks with this result, separated by commas.
std::string NamesOf(const DoctorReport& report, CheckResult result) {
  std::string names;
  for (const DoctorCheck& check : report.checks) {
    if (check.result != result) continue;
    absl::StrAppendFormat(&names, "%s%s", names.empty() ? "" : ", ", check.name);
  }
  return names;
}

// Whether a run can work, and the names of the checks that explain why not or what it lacks.
std::string AnswerText(const DoctorReport& report) {
  if (!report.CanRun()) {
    return absl::StrFormat("can work here: no; missing: %s\n",
                           NamesOf(report, CheckResult::kMissing));
  }
  const std::string less = NamesOf(report, CheckResult::kLess);
  if (less.empty()) return "can work here: yes\n";
  return absl::StrFormat("can work here: yes, with less of: %s\n", less);
}

}  // namespace

bool DoctorReport::CanRun() const {
  return std::none_of(checks.begin(), checks.end(), [](const DoctorCheck& check) {
    return check.result == CheckResult::kMissing;
  });
}

// The worst first.
std::string DoctorText(const DoctorReport& report) {
  std::vector<DoctorCheck> checks = report.checks;
  const auto rank = [](const DoctorCheck& check) {
    return check.result == CheckResult::kMissing ? 0 : check.result == CheckResult::kLess ? 1 : 2;
  };
  std::stable_sort(checks.begin(), checks.end(),
                   [&](const DoctorCheck& a, const DoctorCheck& b) { return rank(a) < rank(b); });
  std::string text = AnswerText(report) + "\n";
  for (const DoctorCheck& check : checks) {
    absl::StrAppendFormat(&text, "%-8s %-12s %s\n", ResultName(check.result), check.name,
                          check.found);
    if (check.result == CheckResult::kOk) continue;
    absl::StrAppendFormat(&text, "%21s lost:   %s\n%21s remedy: %s\n", "", check.cost, "",
                          check.remedy);
  }
  return text;
}

std::string DoctorJson(const DoctorReport& report) {
  Json checks = Json::array();
  for (const DoctorCheck& check : report.checks) {
    checks.push_back(Json::object({{"name", check.name},
                                   {"result", ResultName(check.result)},
                                   {"found", check.found},
                                   {"cost", check.cost},
                                   {"remedy", check.remedy}}));
  }
  const Json json = Json::object({{"can_run", report.CanRun()}, {"checks", checks}});
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string DoctorWarnings(const DoctorReport& report, std::string_view prefix) {
  std::string text;
  for (const DoctorCheck& check : report.checks) {
    if (check.result == CheckResult::kOk) continue;
    absl::StrAppendFormat(&text, "%s%s: %s; lost: %s; remedy: %s\n", prefix, check.name,
                          check.found, check.cost, check.remedy);
  }
  return text;
}

}  // namespace underfoot
