// Reads the state of the real library in the terms of the model, and compares it with the model's
// state.
//
// Thread safety: the comparison of one island is for the thread that holds the island's mutex. The
// comparison of the whole is for the thread that holds all of them.

#ifndef UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_
#define UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_

#include <string>

#include "mmu/readers/reader.h"
#include "tests/oracle/comparisons.h"
#include "tests/oracle/world.h"

namespace underfoot::oracle {

// Returns the first difference, or an empty result. `cell` is compared in more detail. `faulter` is
// the tag of the thread whose operation is at the page source.
std::string DifferenceOf(World& world, const Island& island, uint8_t cell, OwnerTag faulter,
                         Comparisons& compared);

// Compares the raw tables, and each statistic of something that exists now, with the sum over all
// islands.
std::string DifferenceOfWhole(World& world, Comparisons& compared);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_ABSTRACTION_H_
