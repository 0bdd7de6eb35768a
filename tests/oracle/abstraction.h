// The abstraction of the real state, compared with the model's. For an island by the holder of its
// mutex; for the whole by the holder of all of them.
//
// Thread safety: as above.

#ifndef UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_
#define UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_

#include <string>

#include "mmu/reader.h"
#include "tests/oracle/comparisons.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

// The first difference, or nothing. `cell` is looked at more closely; `faulter` is the tag of the
// thread whose operation is at the page source.
std::string DifferenceOf(World& world, const Island& island, uint8_t cell, OwnerTag faulter,
                         Comparisons& compared);

// The raw tables and every statistic that counts what is there now, against the sum of all islands.
std::string DifferenceOfWhole(World& world, Comparisons& compared);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_
