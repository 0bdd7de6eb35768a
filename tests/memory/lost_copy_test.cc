// What is evidence that a page was lost, and what only looks like it. The kernel's answer is the
// test's, and so is what happens while it is asked for.

#include "vmm/sources/uffd/lost_copy.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "mmu/mmu.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kGfn{5};
constexpr HvaRange kRam{{0x10000000}, {0x10010000}};
constexpr HvaRange kPage{{0x10005000}, {0x10006000}};
constexpr HvaRange kOtherPage{{0x10008000}, {0x10009000}};
constexpr PagemapEntry kGone{};
constexpr PagemapEntry kSwapped{false, true, false, {}};

class SteadyHost final : public PageSource {
 public:
  PageInResult PageIn(Hva page, Access, FaultContext*) override {
    return {PageInOutcome::kPresent, {(page.value >> kPageShift) + moved}, Access::kWrite};
  }
  uint64_t moved = 0;
};

class LostCopyTest : public ::testing::Test {
 protected:
  LostCopyTest() {
    EXPECT_TRUE(mmu_.CreateMemslot({.id = 1, .gfns = {Gfn{0}, Gfn{16}}, .hva = kRam.begin}).ok());
    Map();
  }
  void Map() {
    EXPECT_EQ(mmu_.faults().FaultIn(reader_, kGfn, Access::kWrite).outcome,
              FaultInOutcome::kMapped);
  }
  void WholeBracket(HvaRange range) { InvalidationScope bracket(mmu_.notifier(), {range}); }
  PagemapEntry Present(uint64_t moved = 0) {
    return {true, false, false, {(kPage.begin.value >> kPageShift) + moved}};
  }

  // `first` is the kernel's first answer, and `meanwhile` comes before it; then it is `later`.
  LostCopy Find(PagemapEntry first, const std::function<void()>& meanwhile, PagemapEntry later) {
    looks_ = 0;
    return FindLostCopy(mmu_, reads_, kGfn, kPage, true, [&] {
      if (looks_++ != 0) return later;
      if (meanwhile) meanwhile();
      return first;
    });
  }

  SteadyHost host_;
  Mmu mmu_{host_};
  EventReads reads_;
  Reader reader_{mmu_.readers()};
  int looks_ = 0;
};

TEST_F(LostCopyTest, APageThatIsGoneUnderItsLeafIsLost) {
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kLost);
  EXPECT_EQ(looks_, 1);
}

TEST_F(LostCopyTest, APageInAnotherFrameThanItsLeafIsLostIfFramesAreKnown) {
  EXPECT_EQ(Find(Present(1), nullptr, Present(1)), LostCopy::kLost);
  EXPECT_EQ(FindLostCopy(mmu_, reads_, kGfn, kPage, false, [&] { return Present(1); }),
            LostCopy::kNo);
}

TEST_F(LostCopyTest, APageThatEqualsItsLeafOrIsInSwapOrHasNoLeafIsNotLost) {
  EXPECT_EQ(Find(Present(), nullptr, kGone), LostCopy::kNo);
  EXPECT_EQ(Find(kSwapped, nullptr, kGone), LostCopy::kNo);
  WholeBracket(kPage);
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kNo);
  EXPECT_EQ(looks_, 0);
}

// A whole bracket and the same leaf again, between the first look at the leaf and the second.
TEST_F(LostCopyTest, APageThatAWholeBracketTookAndThatCameBackInTheSameFrameIsNotLost) {
  const auto bracket_and_same_leaf = [&] {
    WholeBracket(kPage);
    Map();
  };
  EXPECT_EQ(Find(kGone, bracket_and_same_leaf, Present()), LostCopy::kNo);
  EXPECT_EQ(looks_, 2);
  EXPECT_EQ(Find(Present(1), bracket_and_same_leaf, Present()), LostCopy::kNo);
}

// It began before the first look, so the count does not include it; it is over at the last one.
TEST_F(LostCopyTest, ABracketThatEndsBetweenTheLooksExplainsThePage) {
  BracketToken token = mmu_.notifier().Begin({kPage, InvalidationKind::kProtect});
  EXPECT_EQ(Find(
                kGone, [&] { mmu_.notifier().End(token); }, Present()),
            LostCopy::kNo);
  EXPECT_EQ(looks_, 2);
}

TEST_F(LostCopyTest, ABracketInFlightExplainsThePageForAsLongAsItIs) {
  BracketToken token = mmu_.notifier().Begin({kPage, InvalidationKind::kProtect});
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kUnclear);
  mmu_.notifier().End(token);
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kLost);
}

TEST_F(LostCopyTest, ALeafThatHasBecomeAnotherExplainsThePage) {
  const auto another_leaf = [&] {
    WholeBracket(kPage);
    host_.moved = 1;
    Map();
  };
  EXPECT_EQ(Find(kGone, another_leaf, Present(1)), LostCopy::kNo);
}

// The count is of all brackets. One far away only asks for another look.
TEST_F(LostCopyTest, ABracketElsewhereHidesNoLoss) {
  EXPECT_EQ(Find(
                kGone, [&] { WholeBracket(kOtherPage); }, kGone),
            LostCopy::kLost);
  EXPECT_EQ(looks_, 2);
}

// Another handler has read the removal's event when the page is found gone, and applies it now.
TEST_F(LostCopyTest, AnEventThatHasBeenReadAndIsAppliedBetweenTheLooksExplainsThePage) {
  EventReads::Scope reading(reads_, 3);
  EXPECT_EQ(Find(
                kGone,
                [&] {
                  WholeBracket(kPage);
                  reading.End();
                },
                kGone),
            LostCopy::kNo);
}

TEST_F(LostCopyTest, WhileAnEventIsReadAndNotAppliedItIsUnclear) {
  EventReads::Scope reading(reads_, 3);
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kUnclear);
  reading.End();
  EXPECT_EQ(Find(kGone, nullptr, kGone), LostCopy::kLost);
}

TEST_F(LostCopyTest, WhereBracketsBeginAllTheTimeItIsUnclear) {
  const auto lost = FindLostCopy(mmu_, reads_, kGfn, kPage, true, [&] {
    WholeBracket(kOtherPage);
    return kGone;
  });
  EXPECT_EQ(lost, LostCopy::kUnclear);
}

}  // namespace
}  // namespace underfoot::testing
