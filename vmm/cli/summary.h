// The summary that `underfoot run` prints at its end.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CLI_SUMMARY_H_
#define UNDERFOOT_VMM_CLI_SUMMARY_H_

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/config/run_options.h"
#include "vmm/stats/coverage_matrix.h"
#include "vmm/stats/run_end.h"
#include "vmm/stats/stats.h"

namespace underfoot {

struct RunSummary {
  Stats stats;  // the last statistics
  CoverageMatrix coverage = {};
  std::vector<std::string> file_errors = {};  // the first error of each disk's file that has failed
  bool left_behind = false;  // a thread that could not be stopped: Machine::left_behind
  // Kinds of churn that the host did not offer, with the reasons.
  std::map<ChurnKind, std::string> skipped = {};
  std::optional<ReplayStats> replay = {};
  std::vector<std::string> problems;  // one line each; empty: passed
  RunEnd end = RunEnd::kWrong;        // for a run with problems: the worst of them
  std::string program = "underfoot";  // the name of the program as it was called, for the hints
  RunOptions options = {};
  uint64_t churned_us = 0;     // how long memory was moved; 0: as long as the machine lived
  bool churn_changed = false;  // a client has changed the churn: `options` does not have its rates

  [[nodiscard]] bool passed() const { return problems.empty(); }
  [[nodiscard]] RunEnd result() const { return passed() ? RunEnd::kPassed : end; }
  void Add(RunProblem problem) {
    end = passed() ? problem.end : std::max(end, problem.end);
    problems.push_back(std::move(problem.text));
  }
  // Puts what has failed on the host before the problems, which may all follow from it. An error of
  // a file alone is no problem: a Linux guest may cope with it.
  void PutFileErrorsFirst() {
    if (passed()) return;
    std::vector<std::string> first;
    for (const std::string& error : file_errors) {
      first.push_back("a disk of the guest has failed: " + error);
    }
    problems.insert(problems.begin(), first.begin(), first.end());
  }
};

// The problems that the statistics show: a verdict that is missing, mismatches without a bad verdict,
// unbalanced brackets, tables that were never freed, churn that a source missed. The machine reports
// the others itself, with what only it knows: a bad verdict, the audit, leaks, a vCPU that failed.
std::vector<std::string> ProblemsIn(const Stats& stats, const CoverageMatrix& coverage);

// The verdict with its reasons (in colour if `colour` is set), tables, and commands to try next.
std::string SummaryText(const RunSummary& summary, bool colour = false);
// {"run": {version, command line, guest, memory, vCPUs, backing, churn, seed, duration},
//  "passed": bool, "result": as RunEndName, "exit_code": n, "problems": [...],
//  "file_errors": [as `first_error` in /v1/devices],
//  "skipped": {kind of churn: why}, "stats": {as in /v1/stats}, "coverage": {as in /v1/coverage},
//  "churn_rate": {"asked", "done"} a second, "replay": what differed, or null}
std::string SummaryJson(const RunSummary& summary);
// The same object for a run that could not start: "run", "passed": false and the one problem.
std::string StartFailureJson(const RunOptions& options, std::string_view problem);
// The same for a command line that is wrong: "run" has the version and the command line only.
std::string UsageFailureJson(std::string_view command_line, std::string_view problem);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_SUMMARY_H_
