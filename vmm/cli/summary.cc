#include "vmm/cli/summary.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/cli/command.h"
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

std::string GuestText(const RunSummary& summary) {
  const Stats& s = summary.stats;
  if (summary.options.RunsLinux()) {
    return absl::StrFormat("Linux, %s: verdict %s", s.guest.workload,
                           GuestVerdictName(s.guest.verdict));
  }
  return absl::StrFormat(
      "%s: verdict %s, %s checked, %s", s.guest.workload, GuestVerdictName(s.guest.verdict),
      Counted(s.guest.pages_checked, "page"),
      s.guest.mismatches == 1 ? "1 mismatch" : FormatCount(s.guest.mismatches) + " mismatches");
}

// Operations per second, of all kinds together.
struct ChurnRate {
  double asked = 0;  // 0: the request had no rate
  double done = 0;
};

ChurnRate RateOf(const RunSummary& summary) {
  ChurnRate rate;
  for (const auto& [kind, asked] : summary.options.churn.rates) rate.asked += asked;
  if (!summary.options.replay_path.empty() || summary.churn_changed) rate.asked = 0;
  const uint64_t us = summary.churned_us != 0 ? summary.churned_us : summary.stats.vm.uptime_us;
  const auto total = static_cast<double>(TotalOperations(summary.stats.churn.operations));
  if (us != 0) rate.done = total * 1e6 / static_cast<double>(us);
  return rate;
}

// "discard 270, move 50 (42 declined)".
std::string KindsText(const RunSummary& summary) {
  std::string text;
  for (const auto& [kind, count] : summary.stats.churn.operations) {
    if (count == 0) continue;
    absl::StrAppendFormat(&text, ", %s %s", ChurnKindName(kind), FormatCount(count));
    for (const CoverageRow& row : summary.coverage.rows) {
      if (row.kind != kind || row.operations >= count) continue;
      absl::StrAppendFormat(&text, " (%s declined)", FormatCount(count - row.operations));
    }
  }
  return text;
}

std::string ChurnText(const RunSummary& summary) {
  // A schedule is random, and some operations are declined. A rate below this part of the requested
  // one cannot be explained by that.
  constexpr double kMuchLess = 0.8;
  const Stats& s = summary.stats;
  const ChurnRate rate = RateOf(summary);
  std::string text = Counted(TotalOperations(s.churn.operations), "operation");
  if (rate.done > 0) {
    absl::StrAppendFormat(&text, " (%s/s", FormatCount(static_cast<uint64_t>(rate.done)));
    if (rate.asked > 0 && rate.done < kMuchLess * rate.asked) {
      absl::StrAppendFormat(&text, ", only %.0f%%", 100 * rate.done / rate.asked);
    }
    if (rate.asked > 0) {
      absl::StrAppendFormat(&text, " of %s/s asked",
                            FormatCount(static_cast<uint64_t>(std::llround(rate.asked))));
    }
    text += ")";
  }
  return text + KindsText(summary) + absl::StrFormat(", seed %u", s.churn.seed);
}

std::string CachesText(const Stats& s) {
  return absl::StrFormat(
      "%s hits, %s misses, %s refreshes, %s invalidated; %s of %s prechecks found an overlap",
      FormatCount(s.pfn_caches.hits), FormatCount(s.pfn_caches.misses),
      FormatCount(s.pfn_caches.refreshes), FormatCount(s.pfn_caches.invalidations),
      FormatCount(s.pfn_caches.precheck_overlaps), FormatCount(s.pfn_caches.prechecks));
}

// "2 handlers (512, 498), 4% served on another CPU, 3 merged, 7 put off".
std::string HandlersText(const UffdStats& uffd) {
  std::string text = Counted(uffd.handlers, "handler");
  for (size_t i = 0; i < uffd.handlers && uffd.handlers > 1; ++i) {
    absl::StrAppendFormat(&text, "%s%s", i == 0 ? " (" : ", ",
                          FormatCount(uffd.by_handler.faults[i]));
  }
  if (uffd.handlers > 1) text += ")";
  if (uffd.cpu_samples != 0) {
    absl::StrAppendFormat(
        &text, ", %.0f%% served on another CPU",
        100 * static_cast<double>(uffd.crossed_cpus) / static_cast<double>(uffd.cpu_samples));
  }
  return text + absl::StrFormat(", %s merged, %s put off", FormatCount(uffd.merged),
                                FormatCount(uffd.put_off));
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
  return text + "; " + HandlersText(s.uffd);
}

// " (3 ksm, 1 collapse)", the most frequent cause first; empty if there is none.
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
    return "not read: " + kernel.why_not +
           "; changes that only it reports (swap, migration, KSM) are unobserved";
  }
  std::string text = absl::StrFormat(
      "%s: %s known, %s foreign%s, %s ages; %s lost, %s", Counted(kernel.records, "record"),
      FormatCount(kernel.known), FormatCount(kernel.foreign), CausesText(kernel),
      FormatCount(kernel.ages), FormatCount(kernel.lost), Counted(kernel.resyncs, "resync"));
  if (kernel.lag_us.count != 0) {
    absl::StrAppendFormat(&text, "; half within %s, 99%% within %s",
                          FormatMicros(kernel.lag_us.p50), FormatMicros(kernel.lag_us.p99));
  }
  return text;
}

std::string AuditText(const AuditStats& audit) {
  std::string text =
      absl::StrFormat("%s of leaves, %s of pfn caches, %s", Counted(audit.checks, "check"),
                      FormatCount(audit.cache_checks), Counted(audit.differences, "difference"));
  if (audit.differences == 0) return text;
  return text + absl::StrFormat(
                    ": %s explained, %s that no source could report and that were repaired, %s "
                    "unexplained",
                    FormatCount(audit.explained_uffd + audit.explained_kernel),
                    FormatCount(audit.unobserved), FormatCount(audit.unexplained));
}

std::string DirtyLogText(const DirtyLogStats& log) {
  return absl::StrFormat("%s, %s, %s of them needlessly; %s checked, %s missed; KVM's log is a %s",
                         Counted(log.collections, "collection"), Counted(log.pages, "page"),
                         FormatCount(log.needless), Counted(log.checked, "recorded write"),
                         FormatCount(log.missed), log.kvm);
}

std::string TableText(const RunSummary& summary) {
  const Stats& s = summary.stats;
  TextTable table({Align::kLeft, Align::kLeft});
  table.AddRow(
      {"machine", absl::StrFormat("%s: %s, %s, %s, ran %s", s.vm.name, Counted(s.vm.vcpus, "vCPU"),
                                  FormatBytes(s.vm.memory_bytes), s.vm.kvm_vendor,
                                  FormatMicros(s.vm.uptime_us))});
  table.AddRow({"guest", GuestText(summary)});
  table.AddRow({"churn", ChurnText(summary)});
  table.AddRow(
      {"invalidations",
       absl::StrFormat("%s begun, %s ended, %s", FormatCount(s.notifier.begins),
                       FormatCount(s.notifier.ends), Counted(s.notifier.stray_ends, "stray end"))});
  table.AddRow({"pfn caches", CachesText(s)});
  table.AddRow(
      {"stage-2", absl::StrFormat("%s, %s, %s flushes, %s retried", Counted(s.stage2.maps, "map"),
                                  Counted(s.stage2.unmaps, "unmap"), FormatCount(s.stage2.flushes),
                                  Counted(s.stage2.walk_retries, "walk"))});
  table.AddRow(
      {"memslots", absl::StrFormat("%s, longest wait %s", Counted(s.memslots.updates, "update"),
                                   FormatMicros(s.memslots.update_wait_us_max))});
  table.AddRow(
      {"tables", absl::StrFormat("%s retired, %s freed, %s pending", FormatCount(s.rcu.retired),
                                 FormatCount(s.rcu.freed), FormatCount(s.rcu.pending_tables))});
  table.AddRow({"faults", FaultsText(s)});
  table.AddRow(
      {"events", absl::StrFormat(
                     "%s, %s, %s, %s%s; %s reordered, "
                     "%s lost copies repaired, %s freed lazily, %s times EAGAIN",
                     Counted(s.uffd.removes, "remove"), Counted(s.uffd.unmaps, "unmap"),
                     Counted(s.uffd.remaps, "remap"), Counted(s.uffd.forks, "fork"),
                     s.uffd.fork_waits == 0
                         ? ""
                         : absl::StrFormat(" (%s waited for a free descriptor; raise `ulimit -n`)",
                                           FormatCount(s.uffd.fork_waits)),
                     FormatCount(s.uffd.reordered), FormatCount(s.uffd.lost_copies_repaired),
                     FormatCount(s.uffd.freed_lazily), FormatCount(s.uffd.eagain))});
  if (s.devices.count != 0) {
    table.AddRow(
        {"devices",
         absl::StrFormat(
             "%s, %s checked by the guest, %s; %s to the guest, %s "
             "from it; %s direct (%s made again), %s through a buffer; "
             "%s refreshes of rings, %s in a request%s%s",
             Counted(s.devices.requests, "request"), FormatCount(s.devices.checked),
             Counted(s.devices.errors, "error"), FormatBytes(s.devices.to_guest_bytes),
             FormatBytes(s.devices.from_guest_bytes), Counted(s.devices.direct, "transfer"),
             FormatCount(s.devices.direct_again), FormatCount(s.devices.bounced),
             FormatCount(s.devices.refreshes), FormatCount(s.devices.refreshes_in_request),
             s.devices.file_errors == 0 ? ""
                                        : absl::StrFormat("; %s of the disk's file",
                                                          Counted(s.devices.file_errors, "error")),
             s.devices.shortages == 0 ? ""
                                      : absl::StrFormat("; %s put off for want of memory",
                                                        Counted(s.devices.shortages, "step")))});
  }
  for (const std::string& error : summary.file_errors) table.AddRow({"disk", error});
  if (s.balloon.inflated + s.balloon.reported != 0) {
    table.AddRow(
        {"balloon",
         absl::StrFormat("%s inflated, %s deflated, %s reported free, %s kept",
                         Counted(s.balloon.inflated, "page"), FormatCount(s.balloon.deflated),
                         FormatCount(s.balloon.reported), FormatCount(s.balloon.kept))});
  }
  if (s.hotplug.region_bytes != 0) {
    table.AddRow(
        {"memory",
         absl::StrFormat("%s plugged; %s plugged, %s unplugged, %s busy",
                         FormatBytes(s.hotplug.plugged_bytes), Counted(s.hotplug.plugged, "block"),
                         FormatCount(s.hotplug.unplugged), FormatCount(s.hotplug.busy))});
  }
  if (const EventPagesStats& events = s.event_pages; events.sent_fast.pages != 0) {
    table.AddRow(
        {"event pages",
         absl::StrFormat("%s sent at once, %s handed over; %s taken by the guest; "
                         "%s refreshes",
                         Counted(events.sent_fast.Total(), "event"),
                         FormatCount(events.handed_over.Total()), FormatCount(events.taken),
                         FormatCount(events.refreshes.Total()))});
  }
  table.AddRow({"kernel", KernelText(s.kernel)});
  table.AddRow({"audit", AuditText(s.audit)});
  if (s.dirty_log.enabled) table.AddRow({"dirty log", DirtyLogText(s.dirty_log)});
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

// A difference is not a failure: a host may decline operations for its own reasons.
std::string ReplayText(const ReplayStats& replay) {
  std::string text =
      absl::StrFormat("replay: %s of %s repeated, %s differ\n", FormatCount(replay.repeated),
                      Counted(replay.recorded, "operation"), FormatCount(replay.differences));
  if (replay.repeated < replay.recorded) {
    text += "  the run ended before the others were due; use a longer --duration\n";
  }
  if (!replay.first.empty()) text += "  the first: " + replay.first + "\n";
  return text;
}

// The socket of this run has been removed; the printed commands find the socket of the next run.
std::string HintsText(const std::string& program) {
  std::string text = "Look for yourself, while one runs:\n";
  for (const char* command :
       {"run --churn mixed --duration 0 &", "stats --watch", "stage2 0x1000", "events", "quit"}) {
    absl::StrAppendFormat(&text, "  %s %s\n", program, command);
  }
  return text;
}

// Of a run that has shown less than that memory stays correct while it moves. Empty: it has shown it.
std::string ShownLess(const RunSummary& summary) {
  // Of these, only operations that were not declined.
  const bool moved = std::any_of(summary.coverage.rows.begin(), summary.coverage.rows.end(),
                                 [](const CoverageRow& row) { return row.operations != 0; });
  const bool checked = summary.options.RunsLinux() || summary.stats.guest.pages_checked != 0;
  if (moved && checked) return "";
  const char* const less =
      checked ? "no churn was done, so this shows nothing about memory that moves"
      : moved ? "the guest checked no page, so this does not show that it read nothing stale"
              : "no churn was done and the guest checked no page, so this shows nothing about "
                "coherence";
  return absl::StrFormat(
      ": %s, nothing leaked; %s.\n",
      summary.options.RunsLinux() ? "Linux has powered off" : "the guest ended well", less);
}

// The limits of the verdict: what was not looked at is not claimed, and a difference that no source
// could observe was wrong until it was repaired.
std::string PassedText(const RunSummary& summary) {
  const AuditStats& audit = summary.stats.audit;
  const bool linux_guest = summary.options.RunsLinux();
  const std::string less = ShownLess(summary);
  if (audit.unobserved == 0) {
    return !less.empty() ? less
           : linux_guest ? ": Linux has powered off, the audit is clean, nothing leaked.\n"
                         : ": nothing stale, nothing lost, nothing leaked.\n";
  }
  return absl::StrFormat(
      "%s"
      "  The audit repaired %s that no source could report; `--kernel-events on` "
      "reports "
      "such changes.\n",
      !less.empty() ? less
      : linux_guest ? ": Linux has powered off, nothing leaked.\n"
                    : ": the guest read nothing stale, nothing is lost, nothing leaked.\n",
      Counted(audit.unobserved, "translation"));
}

std::string Coloured(std::string_view word, int code, bool colour) {
  return colour ? absl::StrFormat("\x1b[1;%dm%s\x1b[0m", code, word) : std::string(word);
}

std::string VerdictText(const RunSummary& summary, bool colour) {
  constexpr int kGreen = 32;
  constexpr int kRed = 31;
  if (summary.passed()) {
    return Coloured("PASSED", kGreen, colour) + PassedText(summary);
  }
  const char* const headline = summary.end == RunEnd::kUnfinished ? "DID NOT FINISH"
                               : summary.end == RunEnd::kRebooted ? "REBOOTED"
                                                                  : "FAILED";
  const int hue = summary.end == RunEnd::kRebooted ? kGreen : kRed;
  std::string text = Coloured(headline, hue, colour) + ":\n";
  for (const std::string& problem : summary.problems) text += "  " + problem + "\n";
  return text;
}

Json DescriptionOf(const RunOptions& options) {
  Json rates = Json::object();
  for (const auto& [kind, rate] : options.churn.rates) {
    rates[std::string(ChurnKindName(kind))] = rate;
  }
  return {{"version", kVersion},
          {"command_line", options.command_line},
          {"name", options.name},
          {"guest", options.guest},
          {"memory_bytes", options.memory_bytes},
          {"hotplug_bytes", options.HotplugBytes()},
          {"vcpus", options.vcpus},
          {"backing", BackingName(options.backing)},
          {"fault_handlers",
           options.fault_handlers.has_value() ? Json(*options.fault_handlers) : Json("auto")},
          {"pin_vcpus", options.pin_vcpus},
          {"huge_pages", HugePagesName(options.huge_pages)},
          {"churn", options.churn.text},
          {"rates", rates},
          {"replay", options.replay_path},
          {"seed", options.seed},
          {"duration_ms", options.duration.count()}};
}

std::string FailureJson(const Json& run, std::string_view problem) {
  return Pretty(Json::object(
             {{"run", run}, {"passed", false}, {"problems", Json::array({problem})}})) +
         "\n";
}

}  // namespace

std::vector<std::string> ProblemsIn(const Stats& stats, const CoverageMatrix& coverage) {
  std::vector<std::string> problems;
  if (stats.guest.verdict == GuestVerdict::kPending) {
    problems.push_back(
        absl::StrFormat("the guest's verdict is %s", GuestVerdictName(stats.guest.verdict)));
  }
  if (stats.guest.mismatches != 0 && stats.guest.verdict != GuestVerdict::kBad) {
    problems.push_back(absl::StrFormat("the guest found wrong content in %s",
                                       Counted(stats.guest.mismatches, "page")));
  }
  if (stats.notifier.begins != stats.notifier.ends || stats.notifier.in_flight != 0) {
    problems.push_back(absl::StrFormat(
        "%s begun, %s ended, %s in flight", Counted(stats.notifier.begins, "invalidation"),
        FormatCount(stats.notifier.ends), FormatCount(stats.notifier.in_flight)));
  }
  if (stats.rcu.retired != stats.rcu.freed) {
    problems.push_back(absl::StrFormat("%s retired, %s freed",
                                       Counted(stats.rcu.retired, "table page"),
                                       FormatCount(stats.rcu.freed)));
  }
  for (const CoverageRow& row : coverage.rows) {
    if (row.result != CoverageResult::kMissed) continue;
    problems.push_back(absl::StrFormat(
        "%s of %s churn %s missed by %s", Counted(row.operations, "operation"),
        ChurnKindName(row.kind), row.operations == 1 ? "was" : "were", MissedBy(row, coverage)));
  }
  return problems;
}

std::string SummaryText(const RunSummary& summary, bool colour) {
  std::string text = VerdictText(summary, colour) + "\n" + TableText(summary);
  if (!summary.stats.churn.operations.empty()) {
    text += "\n" + CoverageView(ToJson(summary.coverage));
  }
  if (!summary.skipped.empty()) {
    std::string names;  // the reasons were printed at the start of the run
    for (const auto& [kind, why] : summary.skipped) {
      absl::StrAppendFormat(&names, "%s%s", names.empty() ? "" : ", ", ChurnKindName(kind));
    }
    text += "skipped: " + names + "\n";
  }
  if (summary.replay.has_value()) text += "\n" + ReplayText(*summary.replay);
  return text + "\n" + HintsText(summary.program);
}

std::string SummaryJson(const RunSummary& summary) {
  Json skipped = Json::object();
  for (const auto& [kind, why] : summary.skipped) skipped[std::string(ChurnKindName(kind))] = why;
  const ChurnRate rate = RateOf(summary);
  return Pretty(Json::object(
             {{"run", DescriptionOf(summary.options)},
              {"passed", summary.passed()},
              {"result", RunEndName(summary.result())},
              {"exit_code", ExitCodeOf(summary.result())},
              {"problems", summary.problems},
              {"skipped", skipped},
              {"stats", ToJson(summary.stats)},
              {"coverage", ToJson(summary.coverage)},
              {"file_errors", summary.file_errors},
              {"churn_rate", {{"asked", rate.asked}, {"done", rate.done}}},
              {"replay", summary.replay.has_value() ? ToJson(*summary.replay) : Json()}})) +
         "\n";
}

std::string StartFailureJson(const RunOptions& options, std::string_view problem) {
  return FailureJson(DescriptionOf(options), problem);
}

std::string UsageFailureJson(std::string_view command_line, std::string_view problem) {
  return FailureJson({{"version", kVersion}, {"command_line", command_line}}, problem);
}

}  // namespace underfoot
