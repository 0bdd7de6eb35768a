// The free table pages from which the next tables are made, put into the same order for each
// variant, so that two ways of mapping can be compared.
//
// Thread safety: while no other thread maps.

#ifndef UNDERFOOT_TESTS_BENCH_FREE_TABLES_H_
#define UNDERFOOT_TESTS_BENCH_FREE_TABLES_H_

#include <cstdint>

namespace underfoot::bench {

enum class Temperature : uint8_t {
  kCold,  // in no CPU's cache, but for the line that the pool's list is in
  kWarm,  // written by this CPU, just now
};

// Waits for the retired tables to come back, and arranges the `count` free pages that are taken
// next. Unused memory of the host's is among them only after it was written to.
void ArrangeFreeTables(uint64_t count, Temperature temperature);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_FREE_TABLES_H_
