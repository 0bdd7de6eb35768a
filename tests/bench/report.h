// Results as a table for people and as JSON for machines.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_REPORT_H_
#define UNDERFOOT_TESTS_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "tests/bench/comparison.h"
#include "tests/bench/machine_info.h"

namespace underfoot::bench {

struct SkippedComparison {
  std::string name;
  std::string reason;
};

struct Results {
  MachineInfo machine;
  bool quick = false;
  std::vector<ComparisonResult> comparisons;
  std::vector<SkippedComparison> skipped;
};

std::string MachineText(const MachineInfo& machine);
std::string TableOf(const ComparisonResult& result);
// Times in nanoseconds.
std::string JsonOf(const Results& results);

// "1.2 us": three digits and a unit.
std::string FormatNs(double ns);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_REPORT_H_
