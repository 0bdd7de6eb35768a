// Writes against collections of the dirty log, against invalidations, and against a log that is
// turned on or off. The steps are those of "Dirty pages" in mmu/LOCKING.md.

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
//   2 empties the leaf
//                                   a finds no leaf; b finds a removal and waits
//   3 marks the log
//                                   c takes the log
TEST_F(DirtyRaceTest, ACollectionMeetsABitOnItsWayToTheLog) {
  FaultIn(5, Access::kWrite);
  Gate gate("unmap-half-way");
  Task invalidation("invalidation", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, invalidation));
  Gate waits("collect-waits-for-removals");
  bool collected = false;
  Task collection("collection", [&] { collected = CollectedNow(5); });
  const bool waited = StopsAt(waits, collection);
  gate.Open();
  waits.Open();
  invalidation.Join();
  collection.Join();
  EXPECT_TRUE(waited);
  EXPECT_TRUE(collected);
}

//   collect             writer          unmap
//   a collects the leaves
//                       sets D; writes
//                                       sees that the leaf is dirty
//   c takes the log
//                       finds D; writes
//                                       2 empties the leaf, then 3 marks the log
TEST_F(DirtyRaceTest, AWriteThatFindsItsLeafDirtyIsNotLostWithTheLeaf) {
  FaultIn(5);
  ASSERT_FALSE(CollectedNow(5));
  Reader reader(mmu_.readers());
  Gate half_way("collect-half-way");
  Task collection("collection", [&] { static_cast<void>(CollectedNow(5)); });
  ASSERT_TRUE(StopsAt(half_way, collection));
  ASSERT_TRUE(mmu_.Translate(reader, GpaAt(5), Access::kWrite));
  Gate going("unmap-leaf");
  Task invalidation("invalidation", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(going, invalidation));
  half_way.Open();
  collection.Join();
  ASSERT_TRUE(mmu_.Translate(reader, GpaAt(5), Access::kWrite));  // after that collection
  going.Open();
  invalidation.Join();
  EXPECT_TRUE(CollectedNow(5));
}

//   unmap                           writer
//   sees that the leaf is clean
//                                   sets D
//   the exchange of step 2 fails; it starts again and marks the log
TEST_F(DirtyRaceTest, AWriteInTheMiddleOfAnUnmapIsNotLost) {
  FaultIn(5, Access::kWrite);
  ASSERT_TRUE(CollectedNow(5));
  Gate gate("unmap-leaf");
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
//   a collects the leaves
//                                   removes a leaf that became dirty after a; marks the log
//   c takes the log
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
//   enters a section; sets D
//                                   a clears D; d waits for the reader
//   writes; leaves the section
//                                   returns: a copy of the page now contains the write
TEST_F(DirtyRaceTest, ACollectionWaitsForAWriterThroughALeaf) {
  FaultIn(5, Access::kWrite);
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaAt(5), Access::kWrite);
  ASSERT_TRUE(page);
  bool collected = false;
  ExpectToWaitFor(page, [&] { collected = CollectedNow(5); });
  EXPECT_TRUE(collected);
}

// If an earlier write has set the bit already, the mark changes nothing, and the collection does
// not see it.
TEST_F(DirtyRaceTest, ACollectionWaitsForAWriterThatFoundItsPageMarked) {
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
//   enters a section                c takes the log
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
//   empties a leaf, logs nothing
//                                   returns: each walk marks the log from now on
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

// A walk that found the slot may mark its log until the walk ends. If the log is freed earlier,
// AddressSanitizer reports it.
TEST_F(DirtyRaceTest, ALogOutlivesItsSlotForTheWalksThatFoundIt) {
  Gate waits("slot-waits-for-walks");
  std::unique_ptr<Task> update;
  {
    rcu::ReadScope rcu;
    const Memslot* slot = mmu_.memslots().Current().Find(GfnAt(5));
    ASSERT_NE(slot, nullptr);
    update = std::make_unique<Task>("update", [&] { DeleteSlot(); });
    ASSERT_TRUE(StopsAt(waits, *update));  // no set contains the slot any more
    slot->dirty_sink().Mark({GfnAt(5), GfnAt(6)});
  }
  waits.Open();
  update->Join();
}

}  // namespace
}  // namespace underfoot::testing
