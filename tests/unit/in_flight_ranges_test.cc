#include "mmu/in_flight_ranges.h"

#include <gtest/gtest.h>

#include <vector>

#include "mmu/base/range_word.h"

namespace underfoot::testing {
namespace {

HvaRange Pages(uint64_t first, uint64_t count = 1) {
  return {{first * kPageSize}, {(first + count) * kPageSize}};
}

class InFlightRangesTest : public ::testing::Test {
 protected:
  bool Found(HvaRange range) { return ranges_.FindOverlap(range).has_value(); }

  InFlightRanges ranges_;
};

TEST_F(InFlightRangesTest, AnEmptySetOverlapsNothing) {
  EXPECT_FALSE(Found({{0}, {~uint64_t{0}}}));
  EXPECT_EQ(ranges_.count(), 0u);
}

TEST_F(InFlightRangesTest, ARangeIsFoundByWhatOverlapsAndNothingElse) {
  const auto place = ranges_.Add(Pages(10, 4));
  EXPECT_FALSE(Found(Pages(9)));
  EXPECT_TRUE(Found(Pages(10)));
  EXPECT_TRUE(Found(Pages(13)));
  EXPECT_FALSE(Found(Pages(14)));
  EXPECT_TRUE(Found(Pages(0, 100)));
  ranges_.Remove(place);
  EXPECT_FALSE(Found(Pages(0, 100)));
}

// Two brackets far apart leave what lies between them alone.
TEST_F(InFlightRangesTest, TheSetIsNoHull) {
  const auto low = ranges_.Add(Pages(10));
  const auto high = ranges_.Add(Pages(1000));
  EXPECT_FALSE(Found(Pages(11, 900)));
  ranges_.Remove(low);
  ranges_.Remove(high);
}

TEST_F(InFlightRangesTest, ABracketIsInFlightUntilItsEnd) {
  const auto place = ranges_.Add(Pages(10));
  const auto bracket = ranges_.FindOverlap(Pages(10));
  ASSERT_TRUE(bracket.has_value());
  EXPECT_TRUE(ranges_.InFlight(*bracket));
  ranges_.Remove(place);
  ASSERT_FALSE(ranges_.InFlight(*bracket));
  ranges_.WaitForEnd(*bracket);  // returns at once
}

TEST_F(InFlightRangesTest, TheNextBracketInAPlaceIsAnotherOne) {
  ranges_.Remove(ranges_.Add(Pages(10)));
  const auto first = ranges_.Add(Pages(10));
  const auto bracket = ranges_.FindOverlap(Pages(10));
  ASSERT_TRUE(bracket.has_value());
  ranges_.Remove(first);
  const auto second = ranges_.Add(Pages(10));
  EXPECT_FALSE(ranges_.InFlight(*bracket));
  EXPECT_NE(*ranges_.FindOverlap(Pages(10)), *bracket);
  ranges_.Remove(second);
}

TEST_F(InFlightRangesTest, ARangeTwiceInFlightIsThereUntilBothHaveEnded) {
  const auto first = ranges_.Add(Pages(10));
  const auto second = ranges_.Add(Pages(10));
  EXPECT_EQ(ranges_.count(), 2u);
  ranges_.Remove(first);
  EXPECT_TRUE(Found(Pages(10)));
  ranges_.Remove(second);
  EXPECT_FALSE(Found(Pages(10)));
}

TEST_F(InFlightRangesTest, TheSetGrowsAndStaysPrecise) {
  constexpr uint64_t kMany = 300;
  std::vector<InFlightRanges::Place> places;
  for (uint64_t i = 0; i < kMany; ++i) places.push_back(ranges_.Add(Pages(2 * i)));
  EXPECT_EQ(ranges_.count(), kMany);
  for (uint64_t i = 0; i < kMany; ++i) {
    EXPECT_TRUE(Found(Pages(2 * i))) << i;
    EXPECT_FALSE(Found(Pages(2 * i + 1))) << i;
  }
  // In another order than they came.
  for (uint64_t i = 0; i < kMany; i += 2) ranges_.Remove(places[i]);
  for (uint64_t i = 0; i < kMany; ++i) EXPECT_EQ(Found(Pages(2 * i)), i % 2 == 1) << i;
  for (uint64_t i = 1; i < kMany; i += 2) ranges_.Remove(places[i]);
  EXPECT_EQ(ranges_.count(), 0u);
}

TEST_F(InFlightRangesTest, ARangeThatDoesNotFitIsRoundedUp) {
  const auto place = ranges_.Add({{0}, {~uint64_t{0}}});
  EXPECT_TRUE(Found(Pages(0)));
  EXPECT_TRUE(Found(Pages((uint64_t{1} << 35) - 1)));
  ranges_.Remove(place);
}

TEST_F(InFlightRangesTest, LeavingTwiceIsABug) {
  const auto place = ranges_.Add(Pages(10));
  ranges_.Remove(place);
  EXPECT_DEATH(ranges_.Remove(place), "left the set of ranges in flight twice");
}

struct WordCase {
  HvaRange range;
  uint64_t begin_page;
  uint64_t end_page;
};

// Literal rows: what each range stands for once it is packed. Never less than it is (I10).
TEST(RangeWordTest, PackingRoundsOutAndNeverDown) {
  constexpr uint64_t kEverything = UINT64_MAX;
  const WordCase cases[] = {
      {{{0x1000}, {0x2000}}, 1, 2},
      {{{0x1001}, {0x1002}}, 1, 2},
      {{{0x1fff}, {0x2001}}, 1, 3},
      {{{0}, {0x1000}}, 0, 1},
      {{{0x5000}, {0x5000}}, 5, 6},  // empty: one page rather than none
      {{{0x1000}, {~uint64_t{0}}}, 1, kEverything},
      {{{0}, {uint64_t{1} << 41}}, 0, kEverything},  // 2^29 pages: too many to count
      {{{0}, {(uint64_t{1} << 41) - 0x1000}}, 0, kEverything},
      {{{0}, {(uint64_t{1} << 41) - 0x2000}}, 0, (uint64_t{1} << 29) - 2},
      {{{uint64_t{1} << 47}, {(uint64_t{1} << 47) + 0x1000}}, 0, kEverything},  // beyond user space
      {{{(uint64_t{1} << 47) - 0x1000}, {uint64_t{1} << 47}},
       (uint64_t{1} << 35) - 1,
       uint64_t{1} << 35},
  };
  for (const WordCase& c : cases) {
    const uint64_t word = RangeWord::Pack(c.range);
    EXPECT_NE(word, 0u);
    EXPECT_EQ(RangeWord::BeginPage(word), c.begin_page) << std::hex << c.range.begin.value;
    EXPECT_EQ(RangeWord::EndPage(word), c.end_page) << std::hex << c.range.end.value;
  }
}

TEST(RangeWordTest, OverlapIsHalfOpen) {
  const uint64_t word = RangeWord::Pack(Pages(10, 2));
  EXPECT_FALSE(RangeWord::Overlap(word, RangeWord::Pack(Pages(9))));
  EXPECT_TRUE(RangeWord::Overlap(word, RangeWord::Pack(Pages(10))));
  EXPECT_TRUE(RangeWord::Overlap(word, RangeWord::Pack(Pages(11))));
  EXPECT_FALSE(RangeWord::Overlap(word, RangeWord::Pack(Pages(12))));
}

TEST(ReaderKeyTest, AKeyOverlapsItsRangeWhateverItsNonce) {
  const uint64_t key = ReaderKey::Pack(Pages(10, 2));
  EXPECT_EQ(key & ReaderKey::kNonceMask, 0u);
  for (const uint64_t nonce : {uint64_t{0}, uint64_t{1}, ReaderKey::kNonceMask}) {
    EXPECT_FALSE(ReaderKey::Overlaps(key | nonce, Pages(9)));
    EXPECT_TRUE(ReaderKey::Overlaps(key | nonce, Pages(10)));
    EXPECT_TRUE(ReaderKey::Overlaps(key | nonce, Pages(11)));
    EXPECT_FALSE(ReaderKey::Overlaps(key | nonce, Pages(12)));
  }
  EXPECT_FALSE(ReaderKey::Overlaps(0, Pages(0, 100)));
  EXPECT_TRUE(ReaderKey::Overlaps(ReaderKey::Pack(Pages(0)), Pages(0)));
}

TEST(ReaderKeyTest, ALongRangeReachesToTheEnd) {
  const uint64_t key = ReaderKey::Pack(Pages(10, ReaderKey::kMaxPages + 1));
  EXPECT_TRUE(ReaderKey::Overlaps(key, Pages(1'000'000)));
  EXPECT_FALSE(ReaderKey::Overlaps(key, Pages(9)));
  EXPECT_FALSE(
      ReaderKey::Overlaps(ReaderKey::Pack(Pages(10, ReaderKey::kMaxPages)), Pages(1'000'000)));
}

}  // namespace
}  // namespace underfoot::testing
