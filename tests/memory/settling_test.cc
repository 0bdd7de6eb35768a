#include "vmm/memory/settling.h"

#include <gtest/gtest.h>

#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

constexpr HvaRange kPages{{0x10000}, {0x14000}};
constexpr HvaRange kPageWithin{{0x13000}, {0x14000}};
constexpr HvaRange kPageBefore{{0xf000}, {0x10000}};
constexpr HvaRange kPageBehind{{0x14000}, {0x15000}};

TEST(SettlingRangesTest, ARangeThatWasAddedSettlesWithEachOfItsPages) {
  SettlingRanges settling(absl::Hours(1));
  EXPECT_FALSE(settling.Settling(kPages));
  settling.Add(kPages);
  EXPECT_TRUE(settling.Settling(kPages));
  EXPECT_TRUE(settling.Settling(kPageWithin));
  EXPECT_FALSE(settling.Settling(kPageBefore));
  EXPECT_FALSE(settling.Settling(kPageBehind));
}

TEST(SettlingRangesTest, AfterItsBoundARangeNoLongerSettlesAndIsStillAnExplanation) {
  SettlingRanges settling(absl::ZeroDuration());
  settling.Add(kPages);
  EXPECT_FALSE(settling.Settling(kPageWithin));
  EXPECT_TRUE(settling.Explains(kPageWithin));
  EXPECT_FALSE(settling.Explains(kPageBehind));
}

TEST(SettlingRangesTest, SettlingEndsByItself) {
  SettlingRanges settling(absl::Milliseconds(20));
  settling.Add(kPages);
  EXPECT_TRUE(WaitUntil([&] { return !settling.Settling(kPages); }));
}

// Time that passes when the test says so.
absl::Time g_now;

TEST(SettlingRangesTest, ALaterRemovalSettlesAnew) {
  constexpr absl::Duration kBound = absl::Milliseconds(20);
  g_now = absl::UnixEpoch();
  SettlingRanges settling(kBound, [] { return g_now; });
  settling.Add(kPages);
  g_now += kBound - absl::Nanoseconds(1);
  EXPECT_TRUE(settling.Settling(kPages));
  g_now += absl::Nanoseconds(1);
  EXPECT_FALSE(settling.Settling(kPages));
  settling.Add(kPageWithin);
  EXPECT_TRUE(settling.Settling(kPages));
  EXPECT_FALSE(settling.Settling({kPages.begin, kPageWithin.begin}));
}

TEST(SettlingRangesTest, ARemovalThatHasPassedSettlesNoMoreAndIsStillAnExplanation) {
  SettlingRanges settling(absl::Hours(1));
  settling.Add(kPages, 1);
  settling.Add(kPages, 2);
  settling.Passed(kPages, 3);
  settling.Passed(kPageWithin, 1);
  EXPECT_EQ(settling.passed(), 0u);
  settling.Passed(kPages, 1);
  EXPECT_TRUE(settling.Settling(kPageWithin)) << "the second has not passed";
  settling.Passed(kPages, 2);
  EXPECT_FALSE(settling.Settling(kPageWithin));
  EXPECT_TRUE(settling.Explains(kPageWithin));
  EXPECT_EQ(settling.passed(), 2u);
}

TEST(SettlingRangesTest, WhereRecordsAreExpectedTheBoundCountsOnceTheyAreLost) {
  SettlingRanges settling(absl::ZeroDuration());
  settling.ExpectRecords(true);
  settling.Add(kPages);
  EXPECT_TRUE(settling.Settling(kPages));
  settling.RecordsLost();
  EXPECT_FALSE(settling.Settling(kPages));
  settling.ExpectRecords(false);
  settling.Add(kPages);
  EXPECT_FALSE(settling.Settling(kPages));
}

TEST(SettlingRangesTest, OneOfManyIsFound) {
  SettlingRanges settling(absl::Hours(1));
  for (uint64_t i = 0; i < 1000; ++i) settling.Add(PageRangeOf(Hva{i * 2 * kPageSize}));
  EXPECT_TRUE(settling.Settling(PageRangeOf(Hva{0})));
  EXPECT_TRUE(settling.Settling(PageRangeOf(Hva{500 * 2 * kPageSize})));
  EXPECT_FALSE(settling.Settling(PageRangeOf(Hva{501 * kPageSize})));
}

}  // namespace
}  // namespace underfoot::testing
