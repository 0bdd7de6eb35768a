#include "vmm/ram/pagemap.h"

#include <gtest/gtest.h>

#include "tests/memory/memory_test.h"

namespace underfoot::testing {
namespace {

using PagemapTest = MemoryTest;

TEST_P(PagemapTest, APageIsAbsentUntilItIsBroughtIn) {
  const PagemapEntry before = side().EntryOf(0);
  EXPECT_FALSE(before.present);
  EXPECT_FALSE(before.swapped);
  EXPECT_FALSE(before.uffd_wp);
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
  EXPECT_TRUE(side().EntryOf(0).present);
  EXPECT_FALSE(side().EntryOf(1).present);
}

TEST_P(PagemapTest, TwoPagesHaveTwoFrames) {
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(1)), UffdOutcome::kDone);
  EXPECT_NE(side().EntryOf(0).pfn, side().EntryOf(1).pfn);
  EXPECT_EQ(side().EntryOf(0).pfn, side().EntryOf(0).pfn);
}

TEST_P(PagemapTest, WithoutRealFramesTheHvaStandsIn) {
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
  const bool stands_in = side().EntryOf(0).pfn.value == side().PageAt(0).value >> kPageShift;
  EXPECT_EQ(stands_in, !side().pagemap.real_pfns());
}

TEST_P(PagemapTest, AWriteProtectedPageIsReportedAsSuch) {
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(0), true), UffdOutcome::kDone);
  EXPECT_TRUE(side().EntryOf(0).uffd_wp);
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(0), false), UffdOutcome::kDone);
  EXPECT_FALSE(side().EntryOf(0).uffd_wp);
}

UNDERFOOT_FOR_BOTH_BACKINGS(PagemapTest);

}  // namespace
}  // namespace underfoot::testing
