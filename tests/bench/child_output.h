// Starts a program and measures the time until it has written an expected output.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_
#define UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace underfoot::bench {

// From before the fork until `marker` has come from its standard output; an empty marker: until its
// end. Returns when the program has ended. An error says what was missing and how it ended.
absl::StatusOr<double> NsUntilOutput(const std::vector<std::string>& command,
                                     std::string_view marker);

// A program in the folder of this one.
std::string Sibling(std::string_view name);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_CHILD_OUTPUT_H_
