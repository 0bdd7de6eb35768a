// Writes against collections of the dirty log, invalidations, and a log that is turned on and off.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "mmu/pfn_cache.h"
#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class DirtyRaceTest : public RaceTest {
 protected:
  DirtyRaceTest() { SetLogging(true); }

  void SetLogging(bool on) { ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.log_dirty = on}).ok()); }
  bool CollectedNow(uint64_t page) {
    const absl::StatusOr<DirtyBitmap> dirty = mmu_.CollectDirty(kSlot);
    EXPECT_TRUE(dirty.ok()) << dirty.status();
    return dirty->Contains(page);
  }
};

//   unmap                           collect
//   the bit is in the log
//                                   the leaf is still dirty, or it is in the log
//   the leaf goes
TEST_F(DirtyRaceTest, ACollectionMeetsABitOnItsWayToTheLog) {
  FaultIn(5, Access::kWrite);
  Gate gate("unmap-half-way");
  Task invalidation("invalidation", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, invalidation));
  EXPECT_TRUE(CollectedNow(5));
  gate.Open();
  invalidation.Join();
}

//   unmap                           writer
//   the leaf is clean
//                                   the leaf is dirty
//   it is not the leaf that was seen: again, and into the log
TEST_F(DirtyRaceTest, AWriteInTheMiddleOfAnUnmapIsNotLost) {
  FaultIn(5, Access::kWrite);
  ASSERT_TRUE(CollectedNow(5));
  Gate gate("unmap-half-way");
  Task invalidation("invalidation", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, invalidation));
  {
    Reader reader(mmu_.readers());
    ASSERT_TRUE(mmu_.Translate(reader, GpaAt(5), Access::kWrite));
  }
  gate.Open();
  invalidation.Join();
  EXPECT_FALSE(LeafOf(5).has_value());
  EXPECT_TRUE(CollectedNow(5));
}

//   collect                         unmap
//   the leaves are done
//                                   a leaf that turned dirty since goes; its bit is in the log
//   takes the log
TEST_F(DirtyRaceTest, AnUnmapInTheMiddleOfACollectionLosesNothing) {
  FaultIn(5, Access::kWrite);
  ASSERT_TRUE(CollectedNow(5));
  Gate gate("collect-half-way");
  bool collected = false;
  Task collection("collection", [&] { collected = CollectedNow(5); });
  ASSERT_TRUE(StopsAt(gate, collection));
  {
    Reader reader(mmu_.readers());
    ASSERT_TRUE(mmu_.Translate(reader, GpaAt(5), Access::kWrite));
  }
  MovePage(5);
  gate.Open();
  collection.Join();
  EXPECT_TRUE(collected);
}

//   writer                          collect
//   section; the leaf is dirty
//                                   D is cleared; waits
//   writes, leaves
//                                   returns: what is copied now has the write
TEST_F(DirtyRaceTest, ACollectionWaitsForWhoWritesThroughALeaf) {
  FaultIn(5, Access::kWrite);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kWrite);
  ASSERT_TRUE(page);
  bool collected = false;
  ExpectToWaitFor(page, [&] { collected = CollectedNow(5); });
  EXPECT_TRUE(collected);
}

// The bit may be that of an earlier write: the mark then changes nothing, and is not seen.
TEST_F(DirtyRaceTest, ACollectionWaitsForWhoFoundItsPageMarked) {
  Reader reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader, GpaAt(5), 64, Access::kWrite).ok());
  cache.Check(reader).MarkDirty();
  CacheSection section = cache.Check(reader);
  section.MarkDirty();
  bool collected = false;
  ExpectToWaitFor(section, [&] { collected = CollectedNow(5); });
  EXPECT_TRUE(collected);
  EXPECT_FALSE(CollectedNow(5));
  cache.Deactivate();
}

//   writer                          collect
//   section                         takes the log
//   writes, marks, leaves
TEST_F(DirtyRaceTest, AWriteThroughACacheAfterTheLogWasTakenIsReportedNextTime) {
  Reader reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader, GpaAt(5), 64, Access::kWrite).ok());
  ASSERT_TRUE(CollectedNow(5));
  CacheSection section = cache.Check(reader);
  Gate gate("reader-wait");
  bool collected = true;
  Task collection("collection", [&] { collected = CollectedNow(5); });
  ASSERT_TRUE(StopsAt(gate, collection));
  section.MarkDirty();
  section = {};
  gate.Open();
  collection.Join();
  EXPECT_FALSE(collected);
  EXPECT_TRUE(CollectedNow(5));
  cache.Deactivate();
}

TEST_F(DirtyRaceTest, AWriteThroughACacheInTheMiddleOfACollectionIsReported) {
  Reader reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader, GpaAt(5), 64, Access::kWrite).ok());
  ASSERT_TRUE(CollectedNow(5));
  Gate gate("collect-half-way");
  bool collected = false;
  Task collection("collection", [&] { collected = CollectedNow(5); });
  ASSERT_TRUE(StopsAt(gate, collection));
  cache.Check(reader).MarkDirty();
  gate.Open();
  collection.Join();
  EXPECT_TRUE(collected);
  cache.Deactivate();
}

//   unmap                           update
//   walks the set without a log
//                                   publishes the log; waits for the walk
//   a leaf goes, nothing is logged
//                                   returns: every walk logs from now on
TEST_F(DirtyRaceTest, ALogStartsAfterTheWalksThatDoNotKnowOfIt) {
  for (int round = 0; round < 20; ++round) {
    SetLogging(false);
    Gate walk("stage2-walk");
    std::atomic<bool> walking{true};
    std::atomic<bool> too_early{false};
    SetSyncPoint("stage2-walked", [&] { walking = false; });
    SetSyncPoint("slot-flags-published", [&] { walk.Open(); });
    SetSyncPoint("slot-log-on", [&] { too_early = walking.load(); });
    Task invalidation("invalidation", [&] { MovePage(5); });
    ASSERT_TRUE(StopsAt(walk, invalidation));
    SetLogging(true);
    invalidation.Join();
    ClearSyncPoints();
    ASSERT_FALSE(too_early) << round;
  }
}

TEST_F(DirtyRaceTest, ALogEndsAfterTheSectionsThatMarkIt) {
  Reader reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader, GpaAt(5), 64, Access::kWrite).ok());
  CacheSection section = cache.Check(reader);
  ExpectToWaitFor(section, [&] { SetLogging(false); });
  EXPECT_FALSE(cache.Check(reader));
  cache.Deactivate();
}

// AddressSanitizer is the oracle: a walk that found the slot may mark its log until it ends.
TEST_F(DirtyRaceTest, ALogOutlivesItsSlotForTheWalksThatFoundIt) {
  Gate waits("slot-waits-for-walks");
  std::unique_ptr<Task> update;
  {
    rcu::ReadScope rcu;
    const Memslot* slot = mmu_.memslots().Current().Find(GfnAt(5));
    ASSERT_NE(slot, nullptr);
    update = std::make_unique<Task>("update", [&] { DeleteSlot(); });
    ASSERT_TRUE(StopsAt(waits, *update));  // the slot is in no set any more
    slot->dirty_sink().Mark({GfnAt(5), GfnAt(6)});
  }
  waits.Open();
  update->Join();
}

}  // namespace
}  // namespace underfoot::testing
