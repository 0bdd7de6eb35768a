#include "vmm/sources/uffd/fault_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace underfoot::testing {
namespace {

constexpr Hva kBase{uint64_t{1} << 40};

class FaultWindowTest : public ::testing::Test {
 protected:
  static Hva PageAt(uint64_t i) { return kBase + i * kPageSize; }
  static HvaRange Pages(uint64_t first, uint64_t end) { return {PageAt(first), PageAt(end)}; }
  static constexpr HvaRange kEverywhere{{0}, {~uint64_t{0}}};
  HvaRange Next(uint64_t page) { return window_.Next(PageAt(page), kEverywhere); }
  // All that comes in behind `window`, wherever it is cut.
  HvaRange Further(HvaRange window) {
    HvaRange all = Pages(0, 0);
    for (HvaRange last = window; !(last = window_.Further(last, kEverywhere)).empty();) {
      EXPECT_LE(last.size(), 64 * kPageSize);
      all = all.empty() ? last
                        : HvaRange{std::min(all.begin, last.begin), std::max(all.end, last.end)};
    }
    return all;
  }
  // Faults as a thread takes them that touches every page in turn: `pages` of them, from `first` on
  // or down. Returns the first page not brought in.
  uint64_t Up(uint64_t first, unsigned faults) {
    for (unsigned i = 0; i < faults; ++i) first = (Next(first).end - kBase) / kPageSize;
    return first;
  }
  uint64_t Down(uint64_t last, unsigned faults) {
    for (unsigned i = 0; i < faults; ++i) last = (Next(last).begin - kBase) / kPageSize - 1;
    return last;
  }

  FaultWindow window_{64};
};

TEST_F(FaultWindowTest, FaultsThatFollowBringInFourTimesAsMuchEachTimeUpToTheLimit) {
  EXPECT_EQ(Next(0), Pages(0, 1));
  EXPECT_EQ(Next(1), Pages(1, 4));
  EXPECT_EQ(Next(4), Pages(4, 16));
  EXPECT_EQ(Next(16), Pages(16, 64));
  EXPECT_EQ(Next(64), Pages(64, 128));
  EXPECT_EQ(Next(128), Pages(128, 192));
}

TEST_F(FaultWindowTest, DownwardsAsUpwards) {
  EXPECT_EQ(Next(255), Pages(255, 256));
  EXPECT_EQ(Next(254), Pages(252, 255));
  EXPECT_EQ(Next(251), Pages(240, 252));
  EXPECT_EQ(Next(239), Pages(192, 240));
  EXPECT_EQ(Next(191), Pages(128, 192));
}

TEST_F(FaultWindowTest, FromTheThirdFaultOnAStreamGoesFurtherTwiceAsFarEachTime) {
  EXPECT_EQ(Further(Next(0)), Pages(0, 0));
  EXPECT_EQ(Further(Next(1)), Pages(0, 0));
  EXPECT_EQ(Further(Next(4)), Pages(16, 48));
  EXPECT_EQ(Further(Next(48)), Pages(64, 192));
  EXPECT_EQ(Further(Next(192)), Pages(256, 512));
  EXPECT_EQ(Further(Next(512)), Pages(576, 1088));
  EXPECT_EQ(Further(Next(1088)), Pages(1152, 1664)) << "8 limits at most";
}

TEST_F(FaultWindowTest, DownwardsItGoesFurtherDown) {
  EXPECT_EQ(Further(Next(1023)), Pages(0, 0));
  EXPECT_EQ(Further(Next(1022)), Pages(0, 0));
  EXPECT_EQ(Further(Next(1019)), Pages(976, 1008));
  EXPECT_EQ(Further(Next(975)), Pages(832, 960));
}

TEST_F(FaultWindowTest, FurtherEndsAtABorderAndTheStreamGoesOnBehindIt) {
  Up(0, 2);
  const HvaRange window = Next(4);
  EXPECT_EQ(window_.Further(window, Pages(0, 20)), Pages(16, 20));
  EXPECT_TRUE(window_.Further(Pages(16, 20), Pages(0, 20)).empty());
  EXPECT_EQ(Next(20), Pages(20, 64));
}

// It has caught up with what is brought in further: no reason to bring in less.
TEST_F(FaultWindowTest, AStreamThatIsFasterThanItsFurtherPagesGoesOnWhereTheyEnd) {
  Up(0, 2);
  static_cast<void>(Further(Next(4)));
  const HvaRange window = Next(48);
  EXPECT_EQ(window_.Further(window, kEverywhere), Pages(64, 128));
  EXPECT_EQ(Next(128), Pages(128, 192));
  EXPECT_EQ(Further(Pages(128, 192)), Pages(192, 448));
}

TEST_F(FaultWindowTest, ScatteredFaultsBringInThemselves) {
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t page = i * 7919 % 100003 * 2;
    ASSERT_EQ(Next(page), Pages(page, page + 1)) << i;
  }
}

TEST_F(FaultWindowTest, ALimitOfOneIsOff) {
  FaultWindow off(1);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_EQ(off.Next(PageAt(i), kEverywhere), Pages(i, i + 1));
}

TEST_F(FaultWindowTest, EveryWindowHasItsPageAndNoMoreThanTheLimit) {
  FaultWindow small(8);
  for (uint64_t page = 3; page < 1000;) {
    const HvaRange window = small.Next(PageAt(page), kEverywhere);
    ASSERT_TRUE(window.Contains(PageAt(page)));
    ASSERT_LE(window.size(), 8 * kPageSize);
    page = (window.end - kBase) / kPageSize;
  }
}

TEST_F(FaultWindowTest, ALimitNeedBeNoPowerOfTwo) {
  FaultWindow window(100);
  uint64_t page = 0;
  for (int i = 0; i < 10; ++i) {
    const HvaRange range = window.Next(PageAt(page), kEverywhere);
    ASSERT_EQ(range.begin, PageAt(page));
    ASSERT_LE(range.size(), 100 * kPageSize);
    page = (range.end - kBase) / kPageSize;
  }
  EXPECT_EQ(window.Next(PageAt(page), kEverywhere).size(), 100 * kPageSize);
}

// A window ends with its table or memslot; the stream does not.
TEST_F(FaultWindowTest, AStreamGoesOnBehindABorder) {
  const uint64_t page = Up(0, 8);
  const HvaRange cut = window_.Next(PageAt(page), Pages(0, page + 10));
  EXPECT_EQ(cut, Pages(page, page + 10));
  EXPECT_EQ(Next(page + 10), Pages(page + 10, page + 64));
  EXPECT_EQ(Next(page + 64), Pages(page + 64, page + 128));
}

TEST_F(FaultWindowTest, StreamsThatTakeTurnsAreFollowedEach) {
  std::vector<uint64_t> next;
  for (uint64_t i = 0; i < 8; ++i) next.push_back(i << 20);
  for (int turn = 0; turn < 8; ++turn) {
    for (uint64_t& page : next) page = Up(page, 1);
  }
  for (const uint64_t page : next) EXPECT_EQ(Next(page), Pages(page, page + 64));
}

TEST_F(FaultWindowTest, ScatteredFaultsPushOutNoStreamThatHasGrown) {
  const uint64_t page = Up(0, 8);
  for (uint64_t i = 1; i < 1000; ++i) static_cast<void>(Next(i * 7919));
  EXPECT_EQ(Next(page), Pages(page, page + 64));
}

TEST_F(FaultWindowTest, FaultsInsideTheLastWindowKeepItFromGrowing) {
  const uint64_t page = Up(0, 8);
  EXPECT_EQ(Next(page - 40), Pages(page - 40, page - 39));
  EXPECT_EQ(Next(page), Pages(page, page + 64));  // one: another thread was in the same window
  for (const uint64_t back : {50U, 40U, 30U, 20U, 10U, 5U}) {
    static_cast<void>(Next(page + 64 - back));
  }
  EXPECT_EQ(Next(page + 64).size(), 4 * kPageSize);
}

}  // namespace
}  // namespace underfoot::testing
