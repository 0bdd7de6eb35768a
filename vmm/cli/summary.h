// What `underfoot run` says when it is done.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CLI_SUMMARY_H_
#define UNDERFOOT_VMM_CLI_SUMMARY_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "vmm/churn/tape.h"
#include "vmm/coverage/matrix.h"
#include "vmm/stats.h"

namespace underfoot {

struct RunSummary {
  Stats stats;  // the last ones
  CoverageMatrix coverage = {};
  std::map<ChurnKind, std::string> skipped = {};  // kinds of churn that the host did not offer
  std::optional<ReplayStats> replay = {};
  std::vector<std::string> problems;  // one line each; empty: passed
  std::string control_path = {};      // for the hints
  std::string program = "underfoot";  // for the hints: as it was called

  [[nodiscard]] bool passed() const { return problems.empty(); }
};

// What the stats themselves say is wrong: verdict, mismatches, audit, unbalanced brackets, tables
// that were never freed, churn that a source missed. The machine adds what only it knows (leaks, a
// vCPU that failed).
std::vector<std::string> ProblemsIn(const Stats& stats, const CoverageMatrix& coverage);

// A table, the verdict, and how to look for oneself.
std::string SummaryText(const RunSummary& summary);
// {"passed": bool, "problems": [...], "skipped": {kind of churn: why}, "stats": {as in /v1/stats},
//  "coverage": {as in /v1/coverage}, "replay": what differed, or null}
std::string SummaryJson(const RunSummary& summary);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_SUMMARY_H_
