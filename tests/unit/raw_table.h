// The raw tables of a stage-2, as a second source of what a test expects: what they hold, and
// whether every count is right.
//
// Thread safety: only while no other thread uses the tables.

#ifndef UNDERFOOT_TESTS_UNIT_RAW_TABLE_H_
#define UNDERFOOT_TESTS_UNIT_RAW_TABLE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "mmu/stage2/stage2.h"

namespace underfoot::testing {

// What the tests of tables share: the pages of a block and of a big block, and two installers.
inline constexpr uint64_t k2M = PagesAt(1);
inline constexpr uint64_t k1G = PagesAt(2);
inline constexpr OwnerTag kMe = 7;
inline constexpr OwnerTag kOther = 8;

struct RawEntry {
  Gfn gfn;
  unsigned level = 0;
  Pte pte;
};

struct RawTables {
  std::vector<RawEntry> leaves;  // by gfn
  std::vector<RawEntry> claims;
  std::array<uint64_t, kLevels> leaves_at{};
  uint64_t tables = 0;                  // the root included
  std::vector<std::string> complaints;  // what is wrong with the counts (I5)
};

RawTables ReadTables(Stage2& stage2);

// Each leaf as a line: "0x100+1 -> 0x55 wyd" is gfn, pages, pfn, and what it grants and has seen.
std::vector<std::string> LeafLines(Stage2& stage2);

// Nothing when the tables are as I5 says, agree with the statistics and hold no claim; otherwise
// what is wrong.
std::string WhatIsWrongWith(Stage2& stage2);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_UNIT_RAW_TABLE_H_
