// Which changes that only the kernel reported explain a translation that the auditor finds wrong.

#include "vmm/evidence/foreign_changes.h"

#include <gtest/gtest.h>

#include <atomic>

namespace underfoot::testing {
namespace {

constexpr Hva kForeignRam{0x7f0000000000};
constexpr uint64_t kForeignPages = 100'000;

std::atomic<int64_t> now_ns{1};

HvaRange ForeignPages(uint64_t first, uint64_t count = 1) {
  return PageRangeOf(kForeignRam + first * kPageSize, count);
}

class ForeignChangesTest : public ::testing::Test {
 protected:
  ForeignChangesTest() { now_ns = 1'000'000'000'000; }

  ForeignChanges changes_{ForeignPages(0, kForeignPages), [] { return now_ns.load(); }};
};

TEST_F(ForeignChangesTest, IncludeTheNotedPagesAndNoOther) {
  EXPECT_FALSE(changes_.Lately(ForeignPages(0, kForeignPages)));
  changes_.Note(ForeignPages(5, 2));
  EXPECT_FALSE(changes_.Lately(ForeignPages(4)));
  EXPECT_TRUE(changes_.Lately(ForeignPages(5)));
  EXPECT_TRUE(changes_.Lately(ForeignPages(6)));
  EXPECT_TRUE(changes_.Lately(ForeignPages(0, 6)));
  EXPECT_FALSE(changes_.Lately(ForeignPages(7)));
}

TEST_F(ForeignChangesTest, AreForgottenAfterTheirTime) {
  changes_.Note(ForeignPages(5));
  changes_.Note(ForeignPages(0, kForeignPages));
  now_ns += ForeignChanges::kMemoryNs;
  EXPECT_TRUE(changes_.Lately(ForeignPages(5)));
  EXPECT_TRUE(changes_.Lately(ForeignPages(9)));
  now_ns += 1;
  EXPECT_FALSE(changes_.Lately(ForeignPages(5)));
  EXPECT_FALSE(changes_.Lately(ForeignPages(9)));
}

TEST_F(ForeignChangesTest, OfAllPagesIncludeEachPage) {
  changes_.Note(ForeignPages(0, kForeignPages));
  EXPECT_TRUE(changes_.Lately(ForeignPages(0)));
  EXPECT_TRUE(changes_.Lately(ForeignPages(kForeignPages - 1)));
}

// More changes than any log keeps.
TEST_F(ForeignChangesTest, OfOtherPagesDisplaceNone) {
  changes_.Note(ForeignPages(0));
  for (uint64_t page = 1; page < kForeignPages; ++page) changes_.Note(ForeignPages(page));
  EXPECT_TRUE(changes_.Lately(ForeignPages(0)));
}

TEST_F(ForeignChangesTest, OutsideOfRamThereAreNone) {
  changes_.Note(ForeignPages(0));
  EXPECT_FALSE(changes_.Lately({kForeignRam - kPageSize, kForeignRam}));
  EXPECT_TRUE(changes_.Lately({kForeignRam - kPageSize, kForeignRam + 1}));
}

}  // namespace
}  // namespace underfoot::testing
