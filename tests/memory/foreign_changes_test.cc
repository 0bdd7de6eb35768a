// Which changes that only the kernel reported explain a translation that the auditor finds wrong.

#include "vmm/evidence/foreign_changes.h"

#include <gtest/gtest.h>

#include <atomic>

namespace underfoot::testing {
namespace {

constexpr Hva kRam{0x7f0000000000};
constexpr uint64_t kPages = 100'000;

std::atomic<int64_t> now_ns{1};

HvaRange Pages(uint64_t first, uint64_t count = 1) {
  return PageRangeOf(kRam + first * kPageSize, count);
}

class ForeignChangesTest : public ::testing::Test {
 protected:
  ForeignChangesTest() { now_ns = 1'000'000'000'000; }

  ForeignChanges changes_{Pages(0, kPages), [] { return now_ns.load(); }};
};

TEST_F(ForeignChangesTest, IncludeTheNotedPagesAndNoOther) {
  EXPECT_FALSE(changes_.Lately(Pages(0, kPages)));
  changes_.Note(Pages(5, 2));
  EXPECT_FALSE(changes_.Lately(Pages(4)));
  EXPECT_TRUE(changes_.Lately(Pages(5)));
  EXPECT_TRUE(changes_.Lately(Pages(6)));
  EXPECT_TRUE(changes_.Lately(Pages(0, 6)));
  EXPECT_FALSE(changes_.Lately(Pages(7)));
}

TEST_F(ForeignChangesTest, AreForgottenAfterTheirTime) {
  changes_.Note(Pages(5));
  changes_.Note(Pages(0, kPages));
  now_ns += ForeignChanges::kMemoryNs;
  EXPECT_TRUE(changes_.Lately(Pages(5)));
  EXPECT_TRUE(changes_.Lately(Pages(9)));
  now_ns += 1;
  EXPECT_FALSE(changes_.Lately(Pages(5)));
  EXPECT_FALSE(changes_.Lately(Pages(9)));
}

TEST_F(ForeignChangesTest, OfAllPagesIncludeEachPage) {
  changes_.Note(Pages(0, kPages));
  EXPECT_TRUE(changes_.Lately(Pages(0)));
  EXPECT_TRUE(changes_.Lately(Pages(kPages - 1)));
}

// More changes than any log keeps.
TEST_F(ForeignChangesTest, OfOtherPagesDisplaceNone) {
  changes_.Note(Pages(0));
  for (uint64_t page = 1; page < kPages; ++page) changes_.Note(Pages(page));
  EXPECT_TRUE(changes_.Lately(Pages(0)));
}

TEST_F(ForeignChangesTest, OutsideOfRamThereAreNone) {
  changes_.Note(Pages(0));
  EXPECT_FALSE(changes_.Lately({kRam - kPageSize, kRam}));
  EXPECT_TRUE(changes_.Lately({kRam - kPageSize, kRam + 1}));
}

}  // namespace
}  // namespace underfoot::testing
