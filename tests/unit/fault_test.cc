#include "mmu/fault.h"

#include <gtest/gtest.h>

#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using FaultTest = MmuRig;

TEST_F(FaultTest, AFaultMapsThePageThatTheHostHas) {
  const FaultResult fault = mmu_.faults().HandleFault(reader_, GfnAt(5), Access::kRead);
  EXPECT_EQ(fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(fault.pte.pfn(), PfnNow(5));
  ASSERT_TRUE(LeafOf(5).has_value());
  EXPECT_EQ(*LeafOf(5), fault.pte);
  EXPECT_EQ(Fault(5), FaultOutcome::kPresent);
  EXPECT_EQ(host_.page_ins(), 1u);
}

TEST_F(FaultTest, AWriteFaultMakesTheLeafDirty) {
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  EXPECT_TRUE(LeafOf(5)->dirty());
  EXPECT_EQ(Fault(6), FaultOutcome::kMapped);
  EXPECT_FALSE(LeafOf(6)->dirty());
}

// The leaf was there already: the access is marked all the same, as hardware would.
TEST_F(FaultTest, AWriteFaultOnAPresentLeafMakesItDirty) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  static_cast<void>(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kPresent);
  EXPECT_TRUE(LeafOf(5)->dirty() && LeafOf(5)->young());
}

TEST_F(FaultTest, APageOfABlockHasItsOwnFrame) {
  constexpr Gfn kBlock{0x200};
  ASSERT_EQ(mmu_.stage2().TryClaim(kBlock, 1, Access::kRead, reader_.tag()).outcome,
            ClaimOutcome::kClaimed);
  ASSERT_TRUE(mmu_.stage2().Publish(kBlock, reader_.tag(), Pte::Leaf({0x40000}, Access::kRead)));
  FakeHost others(PagesAt(1));
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {kBlock, kBlock + PagesAt(1)}, .hva = others.PageAt(0)})
          .ok());
  const FaultResult fault = mmu_.faults().HandleFault(reader_, kBlock + 7, Access::kRead);
  EXPECT_EQ(fault.outcome, FaultOutcome::kPresent);
  EXPECT_EQ(fault.pte.pfn(), Pfn{0x40007});
}

TEST_F(FaultTest, AReadFaultIsRelaxedByAWriteFault) {
  host_.GrantOnlyWhatIsAskedFor();
  EXPECT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_FALSE(LeafOf(5)->writable());
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  EXPECT_TRUE(LeafOf(5)->writable() && LeafOf(5)->dirty());
  EXPECT_EQ(host_.page_ins(), 2u);
}

TEST_F(FaultTest, AFaultOutsideOfTheSlotsFindsNone) {
  EXPECT_EQ(mmu_.faults().HandleFault(reader_, kNowhere, Access::kRead).outcome,
            FaultOutcome::kNoMemslot);
  EXPECT_EQ(mmu_.faults().FaultIn(reader_, kNowhere, Access::kRead).outcome,
            FaultInOutcome::kNoMemslot);
}

TEST_F(FaultTest, AReadOnlySlotIsReadAndNotWritten) {
  ASSERT_TRUE(mmu_.CreateMemslot({.id = 9,
                                  .gfns = {{0x500}, {0x501}},
                                  .hva = host_.PageAt(0),
                                  .flags = {.read_only = true}})
                  .ok());
  EXPECT_EQ(mmu_.faults().HandleFault(reader_, {0x500}, Access::kWrite).outcome,
            FaultOutcome::kReadOnly);
  const FaultResult fault = mmu_.faults().HandleFault(reader_, {0x500}, Access::kRead);
  EXPECT_EQ(fault.outcome, FaultOutcome::kMapped);
  EXPECT_FALSE(fault.pte.writable());  // although the host would let it
}

struct Answer {
  PageInOutcome answer;
  FaultOutcome outcome;
};

// What the page source cannot do leaves nothing behind.
TEST_F(FaultTest, APageSourceThatDeclinesLeavesNoClaim) {
  const Answer answers[] = {
      {PageInOutcome::kAgain, FaultOutcome::kAgain},
      {PageInOutcome::kRemovalPending, FaultOutcome::kRemovalPending},
      {PageInOutcome::kFailed, FaultOutcome::kFailed},
  };
  for (const Answer& answer : answers) {
    host_.SetAnswer([&](Hva, Access) { return PageInResult{answer.answer, {}, Access::kRead}; });
    EXPECT_EQ(Fault(5, Access::kWrite), answer.outcome);
    EXPECT_FALSE(LeafOf(5).has_value());
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  }
}

TEST_F(FaultTest, FaultInRetriesIfTheSourceReturnsAgain) {
  int refusals = 3;
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (refusals-- > 0) return PageInResult{PageInOutcome::kAgain, {}, Access::kRead};
    return std::nullopt;
  });
  EXPECT_EQ(mmu_.faults().FaultIn(reader_, GfnAt(5), Access::kRead).outcome,
            FaultInOutcome::kMapped);
  EXPECT_EQ(host_.page_ins(), 4u);
}

// As while an event waits to be read for which no descriptor is free.
TEST_F(FaultTest, TooManyRetriesForTheSourceAreAnOutcomeAndLeaveNoClaim) {
  constexpr unsigned kTries = 12;
  Mmu patient_for_a_while(host_, {.page_in_tries = kTries});
  ASSERT_TRUE(patient_for_a_while
                  .CreateMemslot({.id = 1, .gfns = {Gfn{0}, Gfn{8}}, .hva = host_.range().begin})
                  .ok());
  Reader reader(patient_for_a_while.readers());
  bool again = true;
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (again) return PageInResult{PageInOutcome::kAgain, {}, Access::kRead};
    return std::nullopt;
  });
  EXPECT_EQ(patient_for_a_while.faults().FaultIn(reader, Gfn{5}, Access::kRead).outcome,
            FaultInOutcome::kAgain);
  EXPECT_EQ(host_.page_ins(), kTries);
  EXPECT_EQ(
      patient_for_a_while.range_faults().FaultIn(reader, {Gfn{0}, Gfn{8}}, Access::kRead).outcome,
      FaultInOutcome::kAgain);
  EXPECT_EQ(WhatIsWrongWith(patient_for_a_while.stage2()), "");
  again = false;
  EXPECT_EQ(patient_for_a_while.faults().FaultIn(reader, Gfn{5}, Access::kRead).outcome,
            FaultInOutcome::kMapped);
}

TEST_F(FaultTest, ABracketInFlightBlocksItsPagesOnly) {
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(5, 2), InvalidationKind::kUnmap});
  EXPECT_EQ(Fault(4), FaultOutcome::kMapped);
  EXPECT_EQ(Fault(5), FaultOutcome::kBlocked);
  EXPECT_EQ(Fault(6), FaultOutcome::kBlocked);
  EXPECT_EQ(Fault(7), FaultOutcome::kMapped);
}

TEST_F(FaultTest, AFaultInsideAReadSectionIsABug) {
  Section section(reader_, ReaderKey::Pack(host_.Pages(0)));
  EXPECT_DEATH(static_cast<void>(Fault(5)), "a fault inside a read section");
}

TEST_F(FaultTest, ASourceThatGrantsTooLittleIsABug) {
  host_.SetAnswer([](Hva, Access) {
    return PageInResult{PageInOutcome::kPresent, {1}, Access::kRead};
  });
  EXPECT_DEATH(static_cast<void>(Fault(5, Access::kWrite)), "granted less than was asked for");
}

}  // namespace
}  // namespace underfoot::testing
