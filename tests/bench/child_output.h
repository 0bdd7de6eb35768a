// Starts a program, and measures the time until it has written an expected output.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_
#define UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace underfoot::bench {

struct ChildRun {
  double ns = 0;          // from before the fork until the marker has come
  std::string output;     // all of its standard output
  double peak_bytes = 0;  // of its resident memory when the marker came; 0: it had ended
};

// Returns when the program has ended. An error says what was missing and how it ended.
absl::StatusOr<ChildRun> RunChild(const std::vector<std::string>& command, std::string_view marker);

// From before the fork until `marker` has come from its standard output; an empty marker: until its
// end. As RunChild.
absl::StatusOr<double> NsUntilOutput(const std::vector<std::string>& command,
                                     std::string_view marker);

// Runs a program, which writes to where this one does, to its end. An error says how it ended, if not well.
absl::Status RunToEnd(const std::vector<std::string>& command);

// A program in the folder of this one.
std::string Sibling(std::string_view name);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_
