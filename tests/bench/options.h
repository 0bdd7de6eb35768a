// The command line of the benchmark program.

#ifndef UNDERFOOT_TESTS_BENCH_OPTIONS_H_
#define UNDERFOOT_TESTS_BENCH_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace underfoot::bench {

enum class Effort : uint8_t {
  kFull,
  kQuick,  // the same operations in fewer rounds: more spread
  kSmoke,  // a few milliseconds for each comparison: shows that it runs, and measures nothing
};

const char* NameOf(Effort effort);

struct BenchOptions {
  // Only comparisons whose name contains one of these texts. Empty: all comparisons.
  std::vector<std::string> filters;
  // 0: as many as each comparison asks for, within the time that its effort allows.
  unsigned rounds = 0;
  Effort effort = Effort::kFull;
  // Among how many processes the rounds are divided. A process lays out its memory once, and some
  // figures depend on that: the spread is to contain it. ParseOptions makes it four for a full run.
  unsigned processes = 1;
  // Seeds everything that a benchmark draws at random.
  uint64_t seed = 1;
  // What the JSON records as the version of the program.
  std::string commit;
  // Where the JSON goes besides the table; "-" is standard output, in the place of the table.
  std::string json_path;
  // Of the processes after the first: where the rounds go, instead of any report.
  std::string rounds_path;
  // The folder of peers/prepare.sh; empty: nothing is compared with a peer.
  std::string peers;
  // Huge pages may be reserved, and settings of the kernel changed; all is put back. Needs root.
  bool may_change_host = false;
  bool help = false;
};

// InvalidArgument names the argument and what there is instead.
absl::StatusOr<BenchOptions> ParseOptions(const std::vector<std::string>& arguments);

extern const char kUsage[];

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_OPTIONS_H_
