// Results as a table for people and as JSON for machines.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_REPORT_H_
#define UNDERFOOT_TESTS_BENCH_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/comparison.h"
#include "tests/bench/machine_info.h"
#include "tests/bench/options.h"

namespace underfoot::bench {

struct SkippedComparison {
  std::string name;
  std::string reason;
};

struct Results {
  MachineInfo machine;
  std::string commit;
  Effort effort = Effort::kFull;
  uint64_t seed = 0;
  unsigned processes = 1;        // that have taken the rounds
  std::optional<double> others;  // the share of the CPUs' time that others took during the run
  std::vector<ComparisonResult> comparisons;
  std::vector<SkippedComparison> skipped;
};

std::string MachineText(const MachineInfo& machine);
std::string TableOf(const ComparisonResult& result);
// Each comparison names its unit.
std::string JsonOf(const Results& results);
// Puts the JSON in the place of what `path` has, in one step: a run that is killed leaves the figures
// that it has measured. False: it cannot be written.
[[nodiscard]] bool SaveJson(const std::string& path, const Results& results);

// "1.23 us", "4.10 MB", "7 retries": three digits and a unit.
std::string FormatFigure(double figure, std::string_view unit);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_REPORT_H_
