// Memslot updates (P5) against installers, invalidations and readers.

#include <gtest/gtest.h>

#include "mmu/pfn_cache.h"
#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

using MemslotRaceTest = RaceTest;

//   installer                       update
//   i looks the slot up
//                                   deletes the slot, finds no claim; another slot gets the gfns
//   ii claims; iii finds another identity: refused
TEST_F(MemslotRaceTest, AnInstallThatLookedUpTheOldSlotIsRefused) {
  EXPECT_EQ(FaultAround("fault-before-claim", Access::kRead, [&] { MoveSlot(); }),
            FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

//   installer                       update
//   ii claims; iii same identity; iv page-in
//                                   deletes the slot, steals the claim
//   publication fails
TEST_F(MemslotRaceTest, AClaimInADyingSlotIsStolen) {
  EXPECT_EQ(FaultAround("fault-after-page-in", Access::kRead, [&] { DeleteSlot(); }),
            FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

//   update                          invalidation
//   1 the slot is dying; its leaves still exist
//                                   Begin walks the dying slot and empties the leaf
TEST_F(MemslotRaceTest, ABeginStillWalksADyingSlot) {
  FaultIn(5);
  Gate gate("slot-dying");
  Task update("update", [&] { DeleteSlot(); });
  ASSERT_TRUE(StopsAt(gate, update));
  OpenBracket held = Begin(5);
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
  gate.Open();
  update.Join();
}

TEST_F(MemslotRaceTest, ADyingSlotIsFoundByNoLookUp) {
  FaultIn(5);
  Gate gate("slot-dying");
  Task update("update", [&] { DeleteSlot(); });
  ASSERT_TRUE(StopsAt(gate, update));
  {
    Reader reader(mmu_.readers());
    EXPECT_EQ(Fault(reader, 6).outcome, FaultOutcome::kNoMemslot);
    EXPECT_FALSE(mmu_.Translate(reader, GpaAt(5), Access::kRead));
  }
  gate.Open();
  update.Join();
}

TEST_F(MemslotRaceTest, ADeleteWaitsForTheReadersOfItsSlot) {
  FaultIn(5);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kRead);
  ASSERT_TRUE(page);
  ExpectToWaitFor(page, [&] { DeleteSlot(); });
}

//   reader                          update
//   Translate finds the old slot
//                                   deletes the slot; waits with its gfns until the reader has left
//   enters its section; finds no leaf
//                                   creates another slot with another leaf
TEST_F(MemslotRaceTest, ATranslateDoesNotMixTheOldSlotWithANewLeaf) {
  Gate gate("translate-before-section");
  Hva found;
  Task task("reader", [&] {
    Reader reader(mmu_.readers());
    found = mmu_.Translate(reader, GpaAt(5), Access::kRead).hva();
  });
  ASSERT_TRUE(StopsAt(gate, task));
  LetWaitForHolder(gate, [&] { MoveSlot(); });
  FaultIn(5);
  gate.Open();
  task.Join();
  EXPECT_EQ(found, Hva{}) << "the old slot with a leaf of the new one";
}

TEST_F(MemslotRaceTest, ACacheOfTheSlotIsInvalidWhenTheDeleteReturns) {
  Reader reader(mmu_.readers());
  PfnCache by_gpa(mmu_, "by gpa");
  PfnCache by_hva(mmu_, "by hva");
  ASSERT_TRUE(by_gpa.Activate(reader, GpaAt(5), 64, Access::kRead).ok());
  ASSERT_TRUE(by_hva.Activate(reader, host_.PageAt(5), 64, Access::kRead).ok());
  DeleteSlot();
  EXPECT_FALSE(by_gpa.Check(reader));
  EXPECT_TRUE(by_hva.Check(reader));  // this cache does not depend on a memslot
  EXPECT_EQ(by_gpa.Refresh(reader), RefreshOutcome::kNoMemslot);
  CreateSlotAt(0);
  EXPECT_EQ(by_gpa.Refresh(reader), RefreshOutcome::kValid);
  by_gpa.Deactivate();
  by_hva.Deactivate();
}

// A bracket is a count and not a lock. Neither the update nor the bracket waits for the other,
// whichever comes first.
TEST_F(MemslotRaceTest, AnUpdateInsideABracketReturns) {
  FaultIn(5);
  OpenBracket held = Begin(5);
  Task update("update inside a bracket", [&] { MoveSlot(); });
  update.Join();
  FaultIn(5);  // the page lies at another hva now
  held.End();
  EXPECT_TRUE(LeafOf(5).has_value());
}

// The range is in flight before the slot is created. Faults on the new slot's pages are refused,
// too.
TEST_F(MemslotRaceTest, ASlotCreatedInsideABracketInstallsNothingThere) {
  OpenBracket held = Begin(kPages / 2 + 5);
  MoveSlot();
  {
    Reader reader(mmu_.readers());
    EXPECT_EQ(Fault(reader, 5).outcome, FaultOutcome::kBlocked);
  }
  held.End();
  FaultIn(5);
}

}  // namespace
}  // namespace underfoot::testing
