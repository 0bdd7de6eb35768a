#include "mmu/fault_around.h"

#include <gtest/gtest.h>

#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

class FaultAroundTest : public MmuRig {
 protected:
  FaultAroundResult Around(uint64_t page, uint64_t first, uint64_t end,
                           Access access = Access::kRead) {
    return mmu_.faults_around().HandleFault(reader_, GfnAt(page), {GfnAt(first), GfnAt(end)},
                                            access);
  }
  uint64_t Leaves() {
    uint64_t leaves = 0;
    for (uint64_t page = 0; page < kPages; ++page) leaves += LeafOf(page).has_value() ? 1 : 0;
    return leaves;
  }
};

TEST_F(FaultAroundTest, TheWholeWindowIsMappedAsTheHostHasIt) {
  const FaultAroundResult result = Around(5, 0, 16);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.fault.pte, *LeafOf(5));
  EXPECT_EQ(result.around, 15u);
  EXPECT_EQ(Leaves(), 16u);
  for (uint64_t page = 0; page < 16; ++page) EXPECT_EQ(LeafOf(page)->pfn(), PfnNow(page));
  EXPECT_EQ(host_.page_ins(), 16u);
}

// Only the page that was asked for has been used.
TEST_F(FaultAroundTest, NeighboursAreCleanAndOld) {
  EXPECT_EQ(Around(5, 4, 8, Access::kWrite).fault.outcome, FaultOutcome::kMapped);
  EXPECT_TRUE(LeafOf(5)->dirty() && LeafOf(5)->young());
  EXPECT_FALSE(LeafOf(6)->dirty() || LeafOf(6)->young());
}

TEST_F(FaultAroundTest, WithoutAFaultAllAreCleanAndOld) {
  EXPECT_EQ(mmu_.faults_around().BringIn(reader_, {GfnAt(0), GfnAt(16)}), 16u);
  EXPECT_EQ(Leaves(), 16u);
  for (uint64_t page = 0; page < 16; ++page) {
    EXPECT_EQ(LeafOf(page)->pfn(), PfnNow(page));
    EXPECT_FALSE(LeafOf(page)->dirty() || LeafOf(page)->young());
  }
}

TEST_F(FaultAroundTest, WithoutAFaultABracketLeavesAllAsItIs) {
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(7), InvalidationKind::kUnmap});
  EXPECT_EQ(mmu_.faults_around().BringIn(reader_, {GfnAt(0), GfnAt(16)}), 0u);
  EXPECT_EQ(Leaves(), 0u);
  EXPECT_EQ(host_.page_ins(), 0u);
}

TEST_F(FaultAroundTest, APresentPageStaysAndIsNotRequestedFromTheSource) {
  ASSERT_EQ(Fault(3, Access::kWrite), FaultOutcome::kMapped);
  ASSERT_EQ(Fault(9), FaultOutcome::kMapped);
  const Pte before = *LeafOf(3);
  const FaultAroundResult result = Around(5, 0, 16);
  EXPECT_EQ(result.around, 13u);
  EXPECT_EQ(*LeafOf(3), before);
  EXPECT_EQ(host_.page_ins(), 16u);
}

TEST_F(FaultAroundTest, AFaultOnAPageWithALeafBringsInNoNeighbour) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  const FaultAroundResult result = Around(5, 0, 16, Access::kWrite);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kPresent);
  EXPECT_TRUE(LeafOf(5)->dirty());
  EXPECT_EQ(result.around, 0u);
  EXPECT_EQ(Leaves(), 1u);
}

TEST_F(FaultAroundTest, AClaimOfAnotherIsLeftAlone) {
  Reader other(mmu_.readers());
  ASSERT_EQ(mmu_.stage2().TryClaim(GfnAt(6), 0, Access::kRead, other.tag()).outcome,
            ClaimOutcome::kClaimed);
  EXPECT_EQ(Around(5, 4, 8).around, 2u);
  EXPECT_FALSE(LeafOf(6).has_value());
  EXPECT_EQ(Around(6, 4, 8).fault.outcome, FaultOutcome::kBusy);
  mmu_.stage2().Abandon(GfnAt(6), other.tag());
}

TEST_F(FaultAroundTest, ABracketInTheWindowLeavesThePageAlone) {
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(7), InvalidationKind::kUnmap});
  const FaultAroundResult result = Around(5, 0, 16);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, 0u);
  EXPECT_EQ(Leaves(), 1u);
  EXPECT_FALSE(LeafOf(7).has_value());
  EXPECT_EQ(Around(7, 0, 16).fault.outcome, FaultOutcome::kBlocked);
  EXPECT_EQ(Leaves(), 1u);
}

TEST_F(FaultAroundTest, ABracketElsewhereIsNoHindrance) {
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(16), InvalidationKind::kUnmap});
  EXPECT_EQ(Around(5, 0, 16).around, 15u);
}

TEST_F(FaultAroundTest, AWindowEndsWithItsSlot) {
  constexpr Gfn kBorder{0x504};
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 8, .gfns = {kBorder - 4, kBorder}, .hva = host_.PageAt(0)}).ok());
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {kBorder, kBorder + 4}, .hva = host_.PageAt(32)}).ok());
  const FaultAroundResult result = mmu_.faults_around().HandleFault(
      reader_, kBorder - 1, {kBorder - 4, kBorder + 4}, Access::kRead);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, 3u);
  rcu::ReadScope rcu;
  EXPECT_FALSE(mmu_.stage2().Lookup(kBorder).has_value());
}

TEST_F(FaultAroundTest, AWindowEndsWithItsTable) {
  constexpr Gfn kBorder{0x400};
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {kBorder - 8, kBorder + 8}, .hva = host_.PageAt(0)})
          .ok());
  const FaultAroundResult result = mmu_.faults_around().HandleFault(
      reader_, kBorder - 1, {kBorder - 8, kBorder + 8}, Access::kRead);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, 7u);
}

// What the page source cannot do for a neighbour leaves nothing behind, and hinders no other page.
TEST_F(FaultAroundTest, ANeighbourThatDoesNotComeInIsGivenBack) {
  for (const PageInOutcome answer :
       {PageInOutcome::kAgain, PageInOutcome::kRemovalPending, PageInOutcome::kFailed}) {
    host_.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
      if (page != host_.PageAt(6)) return std::nullopt;
      return PageInResult{answer, {}, Access::kRead};
    });
    EXPECT_EQ(Around(5, 4, 8).around, 2u);
    EXPECT_FALSE(LeafOf(6).has_value());
    EXPECT_EQ(mmu_.stage2().WalkPath(GfnAt(6)).entries[0], Pte());
    Invalidate(4, 4);
  }
}

TEST_F(FaultAroundTest, TheOutcomeIsThatOfTheFaultingPage) {
  host_.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
    if (page != host_.PageAt(5)) return std::nullopt;
    return PageInResult{PageInOutcome::kRemovalPending, {}, Access::kRead};
  });
  const FaultAroundResult result = Around(5, 4, 8);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kRemovalPending);
  EXPECT_EQ(result.around, 3u);
  EXPECT_FALSE(LeafOf(5).has_value());
}

TEST_F(FaultAroundTest, AWriteIsGrantedThoughItsWindowWasOnlyToBeRead) {
  host_.GrantOnlyWhatIsAskedFor();
  const FaultAroundResult result = Around(5, 4, 8, Access::kWrite);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_TRUE(LeafOf(5)->writable() && LeafOf(5)->dirty());
  EXPECT_FALSE(LeafOf(6)->writable());
}

TEST_F(FaultAroundTest, AReadOnlySlotIsReadAroundAndNotWritten) {
  ASSERT_TRUE(mmu_.CreateMemslot({.id = 9,
                                  .gfns = {{0x500}, {0x508}},
                                  .hva = host_.PageAt(0),
                                  .flags = {.read_only = true}})
                  .ok());
  const GfnRange window{{0x500}, {0x508}};
  EXPECT_EQ(
      mmu_.faults_around().HandleFault(reader_, {0x500}, window, Access::kWrite).fault.outcome,
      FaultOutcome::kReadOnly);
  const FaultAroundResult result =
      mmu_.faults_around().HandleFault(reader_, {0x500}, window, Access::kRead);
  EXPECT_EQ(result.around, 7u);
  rcu::ReadScope rcu;
  EXPECT_FALSE(mmu_.stage2().Lookup({0x503})->pte.writable());
}

TEST_F(FaultAroundTest, OutsideOfTheSlotsThereIsNothingAround) {
  EXPECT_EQ(mmu_.faults_around()
                .HandleFault(reader_, kNowhere, {kNowhere, kNowhere + 8}, Access::kRead)
                .fault.outcome,
            FaultOutcome::kNoMemslot);
}

}  // namespace
}  // namespace underfoot::testing
