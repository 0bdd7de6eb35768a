// The command line of the benchmark program.

#ifndef UNDERFOOT_TESTS_BENCH_OPTIONS_H_
#define UNDERFOOT_TESTS_BENCH_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace underfoot::bench {

struct BenchOptions {
  // Comparisons whose name contains it. Empty: all.
  std::string filter;
  // 0: as many as each comparison asks for.
  unsigned rounds = 0;
  // A few milliseconds each: shows that they run, and measures nothing.
  bool quick = false;
  // Where the JSON goes besides the table; "-" is standard output, in the place of the table.
  std::string json_path;
  bool help = false;
};

// InvalidArgument names the argument and what there is instead.
absl::StatusOr<BenchOptions> ParseOptions(const std::vector<std::string>& arguments);

extern const char kUsage[];

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_OPTIONS_H_
