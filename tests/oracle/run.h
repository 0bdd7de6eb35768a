// A run of the oracle: a world, and threads that make operations in it.

#ifndef UNDERFOOT_TESTS_ORACLE_RUN_H_
#define UNDERFOOT_TESTS_ORACLE_RUN_H_

#include <cstdint>
#include <string>

#include "tests/oracle/comparisons.h"
#include "tests/oracle/shortage.h"

namespace underfoot::oracle {

struct Report {
  std::string failure;
  Comparisons compared;
  uint64_t operations = 0;
  uint64_t digest = 0;
  uint64_t tables_left = 0;
  uint64_t stray_ends = 0;
};

// Makes `operations` operations in all threads together. A run that takes more than a few seconds
// prints its progress. With `shortage`, memory runs out at random; nullptr: never.
Report RunThreads(uint64_t operations, unsigned threads, uint64_t seed,
                  Shortage* shortage = nullptr);

// Expects that nothing differed, that nothing is left, and that each kind of comparison was made.
void ExpectGood(const Report& run);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_RUN_H_
