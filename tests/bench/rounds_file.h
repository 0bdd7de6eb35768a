// How a process hands the rounds that it has taken to the process that reports them: a file of CBOR
// (RFC 8949), with the samples as arrays of doubles in the byte order of the machine.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_ROUNDS_FILE_H_
#define UNDERFOOT_TESTS_BENCH_ROUNDS_FILE_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/comparison.h"

namespace underfoot::bench {

// By the name of the comparison.
using RoundsOfAll = std::map<std::string, Rounds>;

// An error names the file.
absl::Status SaveRounds(const std::string& path, const RoundsOfAll& rounds);
absl::StatusOr<RoundsOfAll> LoadRounds(const std::string& path);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_ROUNDS_FILE_H_
