// A memslot that moves or becomes read-only, against installers, invalidations and readers.

#include <gtest/gtest.h>

#include "mmu/pfn_cache.h"
#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class MemslotUpdateRaceTest : public RaceTest {
 protected:
  static constexpr Gfn kElsewhere{0x4000};

  void MoveElsewhere() { ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kElsewhere).ok()); }
  void MakeReadOnly() { ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.read_only = true}).ok()); }
  FaultOutcome FaultElsewhere(uint64_t page) {
    Reader reader(mmu_.readers());
    return mmu_.faults().HandleFault(reader, kElsewhere + page, Access::kRead).outcome;
  }
  // Returns the outcome of a write fault that is stopped at `point` while the slot becomes
  // read-only.
  FaultOutcome WriteFaultAround(std::string_view point) {
    return FaultAround(point, Access::kWrite, [&] { MakeReadOnly(); });
  }
};

//   Begin of the old hva            update                       fault
//   loads the old set, has not walked it
//                                   deletes the slot and waits for walks
//   walks and ends
//                                   creates another slot with these gfns
//                                                                its leaf stays
TEST_F(MemslotUpdateRaceTest, AGfnIsNotUsedAgainUnderAWalkOverAnOlderSet) {
  Gate walk("stage2-walk");
  Task bracket("bracket of the old place", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(walk, bracket));
  LetWaitForHolder(walk, [&] { MoveSlot(); });
  FaultIn(5);
  walk.Open();
  bracket.Join();
  EXPECT_TRUE(LeafOf(5).has_value()) << "a bracket of another hva took it";
}

TEST_F(MemslotUpdateRaceTest, AMovedSlotIsNotFoundUnderAWalkOverAnOlderSet) {
  Gate walk("stage2-walk");
  Task bracket("bracket of page 5", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(walk, bracket));
  // The slot moves by one page, so gfn 5 is page 4 then.
  LetWaitForHolder(walk, [&] { ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kFirst + 1).ok()); });
  FaultIn(5);
  walk.Open();
  bracket.Join();
  EXPECT_TRUE(LeafOf(5).has_value()) << "a bracket of another hva took it";
}

//   installer                       update
//   claims; same identity; page-in
//                                   makes the slot read-only; its walk steals the claim
//   publication fails
TEST_F(MemslotUpdateRaceTest, AClaimFromBeforeReadOnlyIsNotPublishedAsWritable) {
  EXPECT_EQ(WriteFaultAround("fault-after-page-in"), FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

//   installer                       update
//   looks the slot up: writable
//                                   makes the slot read-only; finds no claim to steal
//   claims; the slot has another identity: refused
TEST_F(MemslotUpdateRaceTest, AClaimForTheOldFlagsIsRefused) {
  EXPECT_EQ(WriteFaultAround("fault-before-claim"), FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

// The leaf that is being relaxed stays, read-only. Its installer has lost its tag and cannot relax
// it.
TEST_F(MemslotUpdateRaceTest, ARelaxFromBeforeReadOnlyIsNotPublished) {
  host_.GrantOnlyWhatIsAskedFor();
  FaultIn(5);
  EXPECT_EQ(WriteFaultAround("fault-after-page-in"), FaultOutcome::kAgain);
  ASSERT_TRUE(LeafOf(5).has_value());
  EXPECT_FALSE(LeafOf(5)->writable());
}

//   refresh                         update
//   finds a writable slot
//                                   makes the slot read-only; the cache is not listed yet
//   lists the cache; looks the page up; finds another identity: starts again and is refused
TEST_F(MemslotUpdateRaceTest, ACacheTranslatedBeforeReadOnlyIsNotValidAfterIt) {
  Gate gate("refresh-translated");
  PfnCache cache(mmu_, "cache");
  absl::Status status;
  Task refresh("refresh", [&] {
    Reader reader(mmu_.readers());
    status = cache.Activate(reader, GpaAt(5), 64, Access::kWrite);
  });
  ASSERT_TRUE(StopsAt(gate, refresh));
  MakeReadOnly();
  gate.Open();
  refresh.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
}

TEST_F(MemslotUpdateRaceTest, ReadOnlyWaitsForAWriterThroughALeaf) {
  FaultIn(5, Access::kWrite);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kWrite);
  ASSERT_TRUE(page);
  ExpectToWaitFor(page, [&] { MakeReadOnly(); });
}

TEST_F(MemslotUpdateRaceTest, ReadOnlyWaitsForAWriterThroughACache) {
  Reader reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader, GpaAt(5), 64, Access::kWrite).ok());
  CacheSection section = cache.Check(reader);
  ExpectToWaitFor(section, [&] { MakeReadOnly(); });
  cache.Deactivate();
}

//   writer          update                 Begin(protect)
//   in a section
//                   takes the permission from the leaf; waits
//                                          finds nothing writable. If it returned now, its caller
//                                          would protect a page that is being written
TEST_F(MemslotUpdateRaceTest, ABeginWaitsForTheWritersThatReadOnlyWaitsFor) {
  FaultIn(5, Access::kWrite);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kWrite);
  ASSERT_TRUE(page);
  Gate first("reader-wait");
  Task update("update", [&] { MakeReadOnly(); });
  ASSERT_TRUE(StopsAt(first, update));
  Gate second("reader-wait");
  Task begin("begin", [&] { Begin(5, InvalidationKind::kProtect).End(); });
  ASSERT_TRUE(StopsAt(second, begin));
  page = {};
  first.Open();
  second.Open();
  update.Join();
  begin.Join();
}

//   update                          invalidation
//   the slot is dying at its old place; its leaves still exist
//                                   Begin walks the old place and empties the leaf
TEST_F(MemslotUpdateRaceTest, ABeginStillWalksTheOldPlaceOfAMove) {
  FaultIn(5);
  Gate gate("slot-dying");
  Task update("update", [&] { MoveElsewhere(); });
  ASSERT_TRUE(StopsAt(gate, update));
  OpenBracket held = Begin(5);
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
  gate.Open();
  update.Join();
}

TEST_F(MemslotUpdateRaceTest, AMovingSlotIsFoundNowhere) {
  FaultIn(5);
  Gate gate("slot-dying");
  Task update("update", [&] { MoveElsewhere(); });
  ASSERT_TRUE(StopsAt(gate, update));
  {
    Reader reader(mmu_.readers());
    EXPECT_EQ(Fault(reader, 6).outcome, FaultOutcome::kNoMemslot);
    EXPECT_FALSE(mmu_.Translate(reader, GpaAt(5), Access::kRead));
  }
  EXPECT_EQ(FaultElsewhere(5), FaultOutcome::kNoMemslot);
  gate.Open();
  update.Join();
  EXPECT_EQ(FaultElsewhere(5), FaultOutcome::kMapped);
}

TEST_F(MemslotUpdateRaceTest, AClaimInTheOldPlaceOfAMoveIsStolen) {
  EXPECT_EQ(FaultAround("fault-after-page-in", Access::kRead, [&] { MoveElsewhere(); }),
            FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

TEST_F(MemslotUpdateRaceTest, AMoveWaitsForTheReadersOfItsOldPlace) {
  FaultIn(5);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kRead);
  ASSERT_TRUE(page);
  ExpectToWaitFor(page, [&] { MoveElsewhere(); });
}

// A range in flight is a range of host memory, so it also covers the slot at its new place.
TEST_F(MemslotUpdateRaceTest, AMoveInsideABracketInstallsNothingAtTheNewPlace) {
  OpenBracket held = Begin(5);
  Task update("update inside a bracket", [&] { MoveElsewhere(); });
  update.Join();
  EXPECT_EQ(FaultElsewhere(5), FaultOutcome::kBlocked);
  EXPECT_EQ(FaultElsewhere(6), FaultOutcome::kMapped);
  held.End();
  EXPECT_EQ(FaultElsewhere(5), FaultOutcome::kMapped);
}

}  // namespace
}  // namespace underfoot::testing
