// A fault that brings in its whole block: as one leaf where the host has one huge page, as a table
// where it has not, and not at all where something is in the way.

#include <gtest/gtest.h>

#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "mmu/range_fault.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kFirst{4 * k2M};
constexpr uint64_t kPage = 7;

class BlockFaultTest : public ::testing::Test {
 protected:
  BlockFaultTest() {
    const absl::Status created =
        mmu_.CreateMemslot({.id = 1, .gfns = {kFirst, kFirst + k2M}, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
  }
  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), ""); }

  std::optional<BlockFaultResult> Fault(Access access, unsigned level = 1) {
    return mmu_.range_faults().HandleFault(reader_, kFirst + kPage, level, access, nullptr);
  }
  FaultOutcome FaultOnePage(uint64_t page, Access access = Access::kRead) {
    return mmu_.faults().HandleFault(reader_, kFirst + page, access).outcome;
  }
  std::optional<Stage2::Leaf> LeafOf(uint64_t page) {
    rcu::ReadScope rcu;
    return mmu_.stage2().Lookup(kFirst + page);
  }
  void ExpectNothingClaimed() {
    EXPECT_EQ(mmu_.Stats().stage2.tables, 1u);
    EXPECT_EQ(mmu_.Stats().stage2.leaves_2m + mmu_.Stats().stage2.leaves_4k, 0u);
  }
  // An answer for one page; all others are brought in as usual.
  void AnswerForPage(uint64_t page, PageInOutcome outcome) {
    host_.SetAnswer([this, page, outcome](Hva hva, Access) -> std::optional<PageInResult> {
      if (hva != host_.PageAt(page)) return std::nullopt;
      return PageInResult{outcome, {}, Access::kRead, 0};
    });
  }

  FakeHost host_{k2M};
  Mmu mmu_{host_};
  Reader reader_{mmu_.readers()};
};

TEST_F(BlockFaultTest, AHugePageOfTheHostBecomesOneLeaf) {
  const auto result = Fault(Access::kRead);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result->fault.pte.pfn(), host_.PfnOf(host_.PageAt(kPage)));
  EXPECT_EQ(result->around, k2M - 1);
  EXPECT_TRUE(result->whole);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
  EXPECT_EQ(LeafOf(0)->pte.pfn(), host_.PfnOf(host_.PageAt(0)));
  EXPECT_TRUE(LeafOf(0)->pte.young());
  EXPECT_FALSE(LeafOf(0)->pte.dirty());
}

TEST_F(BlockFaultTest, AWriteMakesTheWholeBlockDirtyBecauseItHasOneBit) {
  ASSERT_TRUE(Fault(Access::kWrite).has_value());
  EXPECT_EQ(LeafOf(k2M - 1)->level, 1u);
  EXPECT_TRUE(LeafOf(k2M - 1)->pte.dirty());
}

// One frame of 512 is elsewhere, at each end and in the middle.
TEST_F(BlockFaultTest, ABlockOfWhichOneFrameIsElsewhereBecomesATable) {
  for (const uint64_t other : {uint64_t{1}, uint64_t{300}, k2M - 1}) {
    {
      InvalidationScope bracket(mmu_.notifier(), {host_.Pages(0, k2M), InvalidationKind::kUnmap});
      host_.Move(host_.Pages(0, k2M));
      host_.Move(host_.Pages(other));
    }
    const auto result = Fault(Access::kWrite);
    ASSERT_TRUE(result.has_value());
    EXPECT_FALSE(result->whole);
    EXPECT_EQ(result->around, k2M - 1);
    rcu::Barrier();  // the leaves of a detached table are counted out when it is freed
    EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 0u);
    EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
    for (const uint64_t page : {uint64_t{0}, other, kPage}) {
      EXPECT_EQ(LeafOf(page)->pte.pfn(), host_.PfnOf(host_.PageAt(page))) << page;
    }
  }
}

TEST_F(BlockFaultTest, InATableOnlyTheFaultingPageIsYoungAndDirty) {
  host_.Move(host_.Pages(0));
  ASSERT_TRUE(Fault(Access::kWrite).has_value());
  EXPECT_TRUE(LeafOf(kPage)->pte.young());
  EXPECT_TRUE(LeafOf(kPage)->pte.dirty());
  EXPECT_FALSE(LeafOf(kPage + 1)->pte.young());
  EXPECT_FALSE(LeafOf(kPage + 1)->pte.dirty());
}

// The frames are consecutive, but do not begin where a huge page does.
TEST_F(BlockFaultTest, FramesThatAreNotAlignedBecomeATable) {
  host_.SetAnswer([this](Hva page, Access) -> std::optional<PageInResult> {
    const uint64_t index = (page - host_.PageAt(0)) / kPageSize;
    return PageInResult{PageInOutcome::kPresent, {0x80001 + index}, Access::kWrite, 0};
  });
  const auto result = Fault(Access::kRead);
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->whole);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
}

TEST_F(BlockFaultTest, APageThatDoesNotGrantAsMuchAsTheOthersKeepsTheBlockATable) {
  host_.SetAnswer([this](Hva page, Access) -> std::optional<PageInResult> {
    if (page != host_.PageAt(9)) return std::nullopt;
    return PageInResult{PageInOutcome::kPresent, host_.PfnOf(page), Access::kRead, 0};
  });
  const auto result = Fault(Access::kRead);
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->whole);
  EXPECT_FALSE(LeafOf(9)->pte.writable());
  EXPECT_TRUE(LeafOf(10)->pte.writable());
}

TEST_F(BlockFaultTest, APageThatIsNotBroughtInStaysAHole) {
  AnswerForPage(3, PageInOutcome::kRemovalPending);
  const auto result = Fault(Access::kRead);
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->whole);
  EXPECT_EQ(result->around, k2M - 2);
  EXPECT_FALSE(LeafOf(3).has_value());
  EXPECT_TRUE(LeafOf(4).has_value());
  host_.SetAnswer(nullptr);
  EXPECT_EQ(FaultOnePage(3), FaultOutcome::kMapped);
}

TEST_F(BlockFaultTest, IfTheFaultingPageIsNotBroughtInNothingIs) {
  AnswerForPage(kPage, PageInOutcome::kAgain);
  EXPECT_FALSE(Fault(Access::kRead).has_value());
  ExpectNothingClaimed();
}

TEST_F(BlockFaultTest, BesideABracketOfAnotherPageTheFaultingPageComesAlone) {
  BracketToken bracket = mmu_.notifier().Begin({host_.Pages(200), InvalidationKind::kUnmap});
  EXPECT_FALSE(Fault(Access::kRead).has_value());
  EXPECT_EQ(host_.page_ins(), 0u);
  ExpectNothingClaimed();
  EXPECT_EQ(FaultOnePage(kPage), FaultOutcome::kMapped);
  mmu_.notifier().End(bracket);
}

TEST_F(BlockFaultTest, WhereAPageHasALeafTheBlockIsNotAvailable) {
  ASSERT_EQ(FaultOnePage(0), FaultOutcome::kMapped);
  EXPECT_FALSE(Fault(Access::kRead).has_value());
  EXPECT_EQ(FaultOnePage(kPage), FaultOutcome::kMapped);
}

TEST_F(BlockFaultTest, APresentBlockIsUsed) {
  ASSERT_TRUE(Fault(Access::kRead).has_value());
  const uint64_t page_ins = host_.page_ins();
  const auto result = Fault(Access::kWrite);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->fault.outcome, FaultOutcome::kPresent);
  EXPECT_EQ(result->fault.pte.pfn(), host_.PfnOf(host_.PageAt(kPage)));
  EXPECT_TRUE(LeafOf(0)->pte.dirty());
  EXPECT_EQ(host_.page_ins(), page_ins);
}

TEST_F(BlockFaultTest, ABlockBeyondItsMemslotIsNotAvailable) {
  EXPECT_FALSE(Fault(Access::kRead, 2).has_value());
  ExpectNothingClaimed();
}

// A block whose write protection the host lifts as a whole, as that of a hugetlb page.
class RelaxedBlockTest : public BlockFaultTest {
 protected:
  void SetUp() override {
    host_.SetAnswer([this](Hva page, Access access) -> std::optional<PageInResult> {
      if (access == Access::kWrite) protected_ = false;
      return PageInResult{PageInOutcome::kPresent, host_.PfnOf(page),
                          protected_ ? Access::kRead : Access::kWrite, 0};
    });
    ASSERT_TRUE(Fault(Access::kRead).has_value());
    ASSERT_FALSE(LeafOf(0)->pte.writable());
  }

  bool protected_ = true;
};

TEST_F(RelaxedBlockTest, AWriteRelaxesTheWholeBlock) {
  const auto result = Fault(Access::kWrite);
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->whole);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
  EXPECT_TRUE(LeafOf(k2M - 1)->pte.writable());
  EXPECT_TRUE(LeafOf(k2M - 1)->pte.dirty());
  EXPECT_EQ(LeafOf(k2M - 1)->pte.tag(), 0u);
}

// A copy on write: readers may still be using the old frames, and no bracket waits for them here.
TEST_F(RelaxedBlockTest, FramesThatHaveChangedDoNotReplaceThoseOfALeaf) {
  const Pte before = LeafOf(0)->pte;
  host_.Move(host_.Pages(0, k2M));
  EXPECT_FALSE(Fault(Access::kWrite).has_value());
  EXPECT_EQ(LeafOf(0)->pte, before) << "and the tag was given back";
}

TEST_F(RelaxedBlockTest, ABlockThatIsNoLongerOneHugePageKeepsItsLeaf) {
  const Pte before = LeafOf(0)->pte;
  host_.Move(host_.Pages(k2M - 1));
  EXPECT_FALSE(Fault(Access::kWrite).has_value());
  EXPECT_EQ(LeafOf(0)->pte, before);
}

}  // namespace
}  // namespace underfoot::testing
