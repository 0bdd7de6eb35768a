#include "vmm/cli/summary.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/cli/table.h"
#include "vmm/cli/units.h"
#include "vmm/cli/views.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

Json ToJson(const ReplayStats& replay) {
  return {{"recorded", replay.recorded},
          {"repeated", replay.repeated},
          {"differences", replay.differences},
          {"first", replay.first}};
}

std::string GuestText(const Stats& s) {
  return absl::StrFormat("%s: verdict %s, %s pages checked, %s mismatches", s.guest.workload,
                         GuestVerdictName(s.guest.verdict), FormatCount(s.guest.pages_checked),
                         FormatCount(s.guest.mismatches));
}

std::string ChurnText(const Stats& s) {
  const uint64_t total = TotalOperations(s.churn.operations);
  const double seconds = static_cast<double>(s.vm.uptime_us) * 1e-6;
  std::string text = absl::StrFormat("%s operations", FormatCount(total));
  if (seconds > 0) {
    const double rate = static_cast<double>(total) / seconds;
    absl::StrAppendFormat(&text, " (%s/s)", FormatCount(static_cast<uint64_t>(rate)));
  }
  for (const auto& [kind, count] : s.churn.operations) {
    if (count != 0)
      absl::StrAppendFormat(&text, ", %s %s", ChurnKindName(kind), FormatCount(count));
  }
  return text + absl::StrFormat(", seed %u", s.churn.seed);
}

std::string CachesText(const Stats& s) {
  return absl::StrFormat(
      "%s hits, %s misses, %s refreshes, %s invalidated; %s of %s prechecks found an overlap",
      FormatCount(s.pfn_caches.hits), FormatCount(s.pfn_caches.misses),
      FormatCount(s.pfn_caches.refreshes), FormatCount(s.pfn_caches.invalidations),
      FormatCount(s.pfn_caches.precheck_overlaps), FormatCount(s.pfn_caches.prechecks));
}

std::string FaultsText(const Stats& s) {
  std::string text = absl::StrFormat(
      "%s missing, %s write-protected, %s minor; %s more pages brought in with them",
      FormatCount(s.uffd.missing), FormatCount(s.uffd.wp), FormatCount(s.uffd.minor),
      FormatCount(s.uffd.around));
  if (s.uffd.fault_us.count != 0) {
    absl::StrAppendFormat(&text, "; half within %s, 99%% within %s, longest %s",
                          FormatMicros(s.uffd.fault_us.p50), FormatMicros(s.uffd.fault_us.p99),
                          FormatMicros(s.uffd.fault_us.max));
  }
  return text;
}

// " (3 ksm, 1 collapse)", the most frequent first; empty where nothing is to be told.
std::string CausesText(const KernelStats& kernel) {
  std::vector<std::pair<uint64_t, std::string_view>> causes;
  for (size_t i = 0; i < kHostCauses; ++i) {
    if (kernel.causes[i] != 0) causes.emplace_back(kernel.causes[i], kHostCauseNames[i]);
  }
  std::stable_sort(causes.begin(), causes.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (const auto& [count, name] : causes) {
    absl::StrAppendFormat(&text, "%s%s %s", text.empty() ? " (" : ", ", FormatCount(count),
                          std::string(name));
  }
  return text.empty() ? text : text + ")";
}

std::string KernelText(const KernelStats& kernel) {
  if (!kernel.enabled) {
    return "not listened to: " + kernel.why_not +
           "; what only it tells (swap, migration, KSM) is unobserved";
  }
  std::string text =
      absl::StrFormat("%s records: %s known, %s foreign%s, %s ages; %s lost, %s resyncs",
                      FormatCount(kernel.records), FormatCount(kernel.known),
                      FormatCount(kernel.foreign), CausesText(kernel), FormatCount(kernel.ages),
                      FormatCount(kernel.lost), FormatCount(kernel.resyncs));
  if (kernel.lag_us.count != 0) {
    absl::StrAppendFormat(&text, "; half within %s, 99%% within %s",
                          FormatMicros(kernel.lag_us.p50), FormatMicros(kernel.lag_us.p99));
  }
  return text;
}

std::string AuditText(const AuditStats& audit) {
  std::string text = absl::StrFormat("%s checks of leaves, %s of pfn caches, %s differences",
                                     FormatCount(audit.checks), FormatCount(audit.cache_checks),
                                     FormatCount(audit.differences));
  if (audit.differences == 0) return text;
  return text + absl::StrFormat(": %s explained, %s that no source could see, %s unexplained",
                                FormatCount(audit.explained_uffd + audit.explained_kernel),
                                FormatCount(audit.unobserved), FormatCount(audit.unexplained));
}

std::string TableText(const Stats& s) {
  Table table({Align::kLeft, Align::kLeft});
  table.AddRow({"machine", absl::StrFormat("%s: %u vCPUs, %s, %s, ran %s", s.vm.name, s.vm.vcpus,
                                           FormatBytes(s.vm.memory_bytes), s.vm.kvm_vendor,
                                           FormatMicros(s.vm.uptime_us))});
  table.AddRow({"guest", GuestText(s)});
  table.AddRow({"churn", ChurnText(s)});
  table.AddRow({"invalidations",
                absl::StrFormat("%s begun, %s ended, %s stray ends", FormatCount(s.notifier.begins),
                                FormatCount(s.notifier.ends), FormatCount(s.notifier.stray_ends))});
  table.AddRow({"pfn caches", CachesText(s)});
  table.AddRow({"stage-2", absl::StrFormat("%s maps, %s unmaps, %s flushes, %s walks retried",
                                           FormatCount(s.stage2.maps), FormatCount(s.stage2.unmaps),
                                           FormatCount(s.stage2.flushes),
                                           FormatCount(s.stage2.walk_retries))});
  table.AddRow(
      {"memslots", absl::StrFormat("%s updates, longest wait %s", FormatCount(s.memslots.updates),
                                   FormatMicros(s.memslots.update_wait_us_max))});
  table.AddRow(
      {"tables", absl::StrFormat("%s retired, %s freed, %s pending", FormatCount(s.rcu.retired),
                                 FormatCount(s.rcu.freed), FormatCount(s.rcu.pending_tables))});
  table.AddRow({"faults", FaultsText(s)});
  table.AddRow(
      {"events",
       absl::StrFormat("%s removes, %s unmaps, %s remaps, %s forks; %s reordered, "
                       "%s lost copies repaired, %s freed lazily, %s times EAGAIN",
                       FormatCount(s.uffd.removes), FormatCount(s.uffd.unmaps),
                       FormatCount(s.uffd.remaps), FormatCount(s.uffd.forks),
                       FormatCount(s.uffd.reordered), FormatCount(s.uffd.lost_copies_repaired),
                       FormatCount(s.uffd.freed_lazily), FormatCount(s.uffd.eagain))});
  table.AddRow({"kernel", KernelText(s.kernel)});
  table.AddRow({"audit", AuditText(s.audit)});
  return table.Text();
}

std::string MissedBy(const CoverageRow& row, const CoverageMatrix& coverage) {
  std::string names;
  for (size_t i = 0; i < kEventSources; ++i) {
    const CoverageCell& cell = row.cells[i];
    if (cell.duty != Duty::kMust || !coverage.sources[i] || cell.events != 0) continue;
    if (!names.empty()) names += " and ";
    names += kEventSourceNames[i];
  }
  return names;
}

// A difference is no failure: a host declines by its own lights.
std::string ReplayText(const ReplayStats& replay) {
  std::string text = absl::StrFormat("replay: %s of %s operations repeated, %s differ\n",
                                     FormatCount(replay.repeated), FormatCount(replay.recorded),
                                     FormatCount(replay.differences));
  if (replay.repeated < replay.recorded) {
    text += "  the rest was not due yet; a longer --duration repeats it\n";
  }
  if (!replay.first.empty()) text += "  the first: " + replay.first + "\n";
  return text;
}

std::string HintsText(const RunSummary& summary) {
  const std::string& program = summary.program;
  const std::string& path = summary.control_path;
  std::string text = "Look for yourself, while one runs:\n";
  absl::StrAppendFormat(&text, "  %s run --churn mixed --duration 0 --control %s &\n", program,
                        path);
  for (const char* command : {"stats --watch", "stage2 0x100"}) {
    absl::StrAppendFormat(&text, "  %s %s --control %s\n", program, command, path);
  }
  absl::StrAppendFormat(&text, "  curl --unix-socket %s http://underfoot/v1/stats\n", path);
  absl::StrAppendFormat(&text, "  %s quit --control %s\n", program, path);
  return text;
}

}  // namespace

std::vector<std::string> ProblemsIn(const Stats& stats, const CoverageMatrix& coverage) {
  std::vector<std::string> problems;
  if (stats.guest.verdict != GuestVerdict::kGood) {
    problems.push_back(
        absl::StrFormat("the guest's verdict is %s", GuestVerdictName(stats.guest.verdict)));
  }
  if (stats.guest.mismatches != 0) {
    problems.push_back(absl::StrFormat("the guest read %s pages as what they may never be",
                                       FormatCount(stats.guest.mismatches)));
  }
  if (stats.audit.unexplained != 0) {
    problems.push_back(
        absl::StrFormat("the audit found %s wrong translations that no source had told of",
                        FormatCount(stats.audit.unexplained)));
  }
  if (stats.notifier.begins != stats.notifier.ends || stats.notifier.in_flight != 0) {
    problems.push_back(absl::StrFormat(
        "%s invalidations begun, %s ended, %s in flight", FormatCount(stats.notifier.begins),
        FormatCount(stats.notifier.ends), FormatCount(stats.notifier.in_flight)));
  }
  if (stats.rcu.retired != stats.rcu.freed) {
    problems.push_back(absl::StrFormat("%s table pages retired, %s freed",
                                       FormatCount(stats.rcu.retired),
                                       FormatCount(stats.rcu.freed)));
  }
  for (const CoverageRow& row : coverage.rows) {
    if (row.result != CoverageResult::kMissed) continue;
    problems.push_back(absl::StrFormat("%s operations of %s churn were missed by %s",
                                       FormatCount(row.operations), ChurnKindName(row.kind),
                                       MissedBy(row, coverage)));
  }
  return problems;
}

std::string SummaryText(const RunSummary& summary) {
  std::string text = TableText(summary.stats);
  if (!summary.stats.churn.operations.empty()) {
    text += "\n" + CoverageView(ToJson(summary.coverage));
    for (const auto& [kind, why] : summary.skipped) {
      absl::StrAppendFormat(&text, "not done: %s %s\n", ChurnKindName(kind), why);
    }
  }
  if (summary.replay.has_value()) text += "\n" + ReplayText(*summary.replay);
  if (summary.passed()) {
    text += "\nPASSED: nothing stale, nothing lost, nothing leaked.\n";
  } else {
    text += "\nFAILED:\n";
    for (const std::string& problem : summary.problems) text += "  " + problem + "\n";
  }
  return text + "\n" + HintsText(summary);
}

std::string SummaryJson(const RunSummary& summary) {
  Json skipped = Json::object();
  for (const auto& [kind, why] : summary.skipped) skipped[std::string(ChurnKindName(kind))] = why;
  return Pretty(Json::object(
             {{"passed", summary.passed()},
              {"problems", summary.problems},
              {"skipped", skipped},
              {"stats", ToJson(summary.stats)},
              {"coverage", ToJson(summary.coverage)},
              {"replay", summary.replay.has_value() ? ToJson(*summary.replay) : Json()}})) +
         "\n";
}

}  // namespace underfoot
