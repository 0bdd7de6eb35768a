// Table pages (P2): claims against the death of a table, and the freeing of tables against walkers
// that are stopped.

#include <gtest/gtest.h>

#include <atomic>
#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/stage2.h"
#include "tests/race/staging.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kGfn{0x40000};

class TableRaceTest : public ::testing::Test {
 protected:
  TableRaceTest() { Map(stage2_, kGfn); }

  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(stage2_), "");
    rcu::Barrier();
    EXPECT_EQ(stage2_.RetiredStats().pending_tables, 0u);
  }

  static void Map(Stage2& stage2, Gfn gfn, Access granted = Access::kRead) {
    ASSERT_EQ(stage2.TryClaim(gfn, 0, granted, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2.Publish(gfn, kMe, Pte::Leaf({0x55}, granted)));
  }
  static void UnmapRange(Stage2& stage2, GfnRange range, DirtySink log = {}) {
    MmuGather gather;
    stage2.Unmap(range, gather, log);
    stage2.Finish(gather);
  }
  static void Unmap(Stage2& stage2, Gfn gfn) { UnmapRange(stage2, {gfn, gfn + 1}); }
  static void ParkInReadSection() {
    rcu::ReadScope rcu;
    PassSyncPoint("parked");
  }
  bool Mapped(Gfn gfn) {
    rcu::ReadScope rcu;
    return stage2_.Lookup(gfn).has_value();
  }

  Stage2 stage2_;
};

//   unmap                           claim
//   empties the last entry; the table is dead
//                                   finds the dead table; unlinks it, makes a new one
//   tries to unlink it: the other thread was faster
TEST_F(TableRaceTest, AClaimThatMeetsADeadTableHelps) {
  Gate gate("table-killed");
  Task unmap("unmap", [&] { Unmap(stage2_, kGfn); });
  ASSERT_TRUE(StopsAt(gate, unmap));
  Map(stage2_, kGfn + 1);
  gate.Open();
  unmap.Join();
  EXPECT_TRUE(Mapped(kGfn + 1));
  EXPECT_EQ(stage2_.Stats().tables, 4u);
}

//   claim                           unmap
//   finds a table with room
//                                   empties the last entry; the table is dead and unlinked
//   TryRef fails; starts again at the root
TEST_F(TableRaceTest, AClaimNeverLandsInADeadTable) {
  Gate gate("claim-before-reference");
  Task claim("claim", [&] { Map(stage2_, kGfn + 1); });
  ASSERT_TRUE(StopsAt(gate, claim));
  Unmap(stage2_, kGfn);
  gate.Open();
  claim.Join();
  EXPECT_TRUE(Mapped(kGfn + 1));
}

TEST_F(TableRaceTest, ALostClaimGivesItsReferenceBack) {
  Gate gate("claim-hole");
  std::optional<ClaimOutcome> outcome;
  Task claim("claim",
             [&] { outcome = stage2_.TryClaim(kGfn + 1, 0, Access::kRead, kOther).outcome; });
  ASSERT_TRUE(StopsAt(gate, claim));
  Map(stage2_, kGfn + 1);
  gate.Open();
  claim.Join();
  EXPECT_EQ(outcome, ClaimOutcome::kPresent);
}

// The thread that loses its claim holds the last reference of a table that has become empty
// meanwhile.
TEST_F(TableRaceTest, ALostClaimTakesTheEmptyTableWithIt) {
  Gate gate("claim-hole");
  std::optional<ClaimOutcome> outcome;
  Task claim("claim", [&] {
    outcome = stage2_.TryClaim(kGfn + 1, 0, Access::kRead, kOther).outcome;
    stage2_.Abandon(kGfn + 1, kOther);
  });
  ASSERT_TRUE(StopsAt(gate, claim));
  Map(stage2_, kGfn + 1);
  Unmap(stage2_, kGfn + 1);
  Unmap(stage2_, kGfn);
  EXPECT_EQ(stage2_.Stats().tables, 4u);  // the claim's reference keeps them
  gate.Open();
  claim.Join();
  EXPECT_EQ(outcome, ClaimOutcome::kClaimed);
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(TableRaceTest, ATableWithTwoKillersIsRetiredOnce) {
  Gate gate("table-killed");
  Task first("first unmap", [&] { Unmap(stage2_, kGfn); });
  ASSERT_TRUE(StopsAt(gate, first));
  UnmapRange(stage2_,
             {kGfn, kGfn + 2});  // unlinks all three; for the one page, a hole, it would not walk
  EXPECT_EQ(stage2_.Stats().tables, 1u);
  gate.Open();
  first.Join();
  EXPECT_EQ(stage2_.RetiredStats().retired, 3u);
}

constexpr GfnRange kWholeTable{kGfn, kGfn + kEntries};
static_assert(kWholeTable == EntryRange(kGfn, 1));

//   unmap of a whole table          installer
//   the entry is a claim
//                                   publishes: a leaf
//   it is not the claim that was seen: again, the leaf goes
TEST_F(TableRaceTest, AClaimThatIsPublishedUnderAnUnmapOfItsTableGoesWithIt) {
  Unmap(stage2_, kGfn);
  ASSERT_EQ(stage2_.TryClaim(kGfn + 5, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  const uint64_t unmaps = stage2_.Stats().unmaps;
  Gate gate("unmap-leaf");
  Task unmap("unmap", [&] { UnmapRange(stage2_, kWholeTable); });
  ASSERT_TRUE(StopsAt(gate, unmap));
  EXPECT_TRUE(stage2_.Publish(kGfn + 5, kMe, Pte::Leaf({0x55}, Access::kRead)));
  gate.Open();
  unmap.Join();
  EXPECT_FALSE(Mapped(kGfn + 5));
  EXPECT_EQ(stage2_.Stats().unmaps, unmaps + 1);
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

//   unmap of a whole table          installers
//   entry 0 is empty, entry 5 is a
//   claim
//                                   map page 0; give the claim of page 5 back
//   entry 5 is empty: its reference
//   is not this walk's to drop
TEST_F(TableRaceTest, AnEntryThatAnotherThreadEmptiesIsNotCountedTwice) {
  Unmap(stage2_, kGfn);
  ASSERT_EQ(stage2_.TryClaim(kGfn + 5, 0, Access::kRead, kOther).outcome, ClaimOutcome::kClaimed);
  Gate gate("unmap-leaf");
  Task unmap("unmap", [&] { UnmapRange(stage2_, kWholeTable); });
  ASSERT_TRUE(StopsAt(gate, unmap));
  Map(stage2_, kGfn);
  EXPECT_TRUE(stage2_.Abandon(kGfn + 5, kOther));
  gate.Open();
  unmap.Join();
  EXPECT_TRUE(Mapped(kGfn));
  EXPECT_EQ(stage2_.Stats().tables, 4u);
}

//   unmap of a whole table          writer
//   the leaf is clean
//                                   the leaf is dirty
//   it is not the leaf that was seen: again, and into the log
TEST_F(TableRaceTest, AWriteInTheMiddleOfAnUnmapOfAWholeTableIsNotLost) {
  Unmap(stage2_, kGfn);
  Map(stage2_, kGfn, Access::kWrite);
  DirtyLog log(kEntries);
  Gate gate("unmap-leaf");
  Task unmap("unmap", [&] { UnmapRange(stage2_, kWholeTable, {.log = &log, .first = kGfn}); });
  ASSERT_TRUE(StopsAt(gate, unmap));
  {
    rcu::ReadScope rcu;
    ASSERT_TRUE(stage2_.Use(kGfn, Access::kWrite).has_value());
  }
  gate.Open();
  unmap.Join();
  EXPECT_FALSE(Mapped(kGfn));
  EXPECT_TRUE(log.Take().Contains(0));
}

//   walker                          teardown over the cap
//   in a read section, in a table
//                                   unlinks the table, flushes, waits for a grace period
//   leaves
//                                   frees the table
TEST_F(TableRaceTest, ATeardownFreesItsTablesWhenWalkersHaveLeft) {
  Stage2 tight(0);
  Map(tight, kGfn);
  Gate parked("walk-down");
  std::atomic<bool> left = false;
  std::atomic<bool> freed_late = false;
  Task walker("walker", [&] {
    rcu::ReadScope rcu;
    static_cast<void>(tight.Lookup(kGfn));
    left = true;
  });
  ASSERT_TRUE(StopsAt(parked, walker));
  SetSyncPoint("retired-free", [&] { freed_late = left.load(); });
  Gate waits("retired-synchronize");
  Task teardown("teardown", [&] { tight.TearDown(kWholeTable); });
  ASSERT_TRUE(StopsAt(waits, teardown));
  EXPECT_EQ(tight.Stats().tables, 1u);
  EXPECT_EQ(tight.RetiredStats().retired, 3u);
  EXPECT_EQ(tight.RetiredStats().freed, 0u);
  EXPECT_EQ(tight.RetiredStats().pending_bytes, 3 * sizeof(Table));
  waits.Open();
  parked.Open();
  walker.Join();
  teardown.Join();
  EXPECT_TRUE(freed_late);
  EXPECT_EQ(tight.RetiredStats().freed, 3u);
  EXPECT_EQ(tight.RetiredStats().pending_bytes, 0u);
}

TEST_F(TableRaceTest, AParkedWalkerKeepsTheMemoryOfItsTable) {
  Gate gate("walk-down");
  Task walker("walker", [&] { static_cast<void>(Mapped(kGfn)); });
  ASSERT_TRUE(StopsAt(gate, walker));
  Unmap(stage2_, kGfn);
  EXPECT_EQ(stage2_.RetiredStats().retired, 3u);
  EXPECT_EQ(stage2_.RetiredStats().freed, 0u);
  EXPECT_EQ(stage2_.RetiredStats().pending_bytes, 3 * sizeof(Table));
  gate.Open();
  walker.Join();
  rcu::Barrier();
  EXPECT_EQ(stage2_.RetiredStats().freed, 3u);
}

TEST_F(TableRaceTest, AStalledReaderGivesBackPressureAndNotGrowth) {
  Stage2 tight(4 * sizeof(Table));
  Map(tight, kGfn);
  Map(tight, {0});
  Gate parked("parked");
  Task reader("reader", ParkInReadSection);
  ASSERT_TRUE(StopsAt(parked, reader));
  Unmap(tight, kGfn);  // stays under the cap
  EXPECT_LE(tight.RetiredStats().pending_bytes, 4 * sizeof(Table));
  Gate drain("retired-drain");
  Task unmap("unmap beyond the cap", [&] { Unmap(tight, {0}); });
  ASSERT_TRUE(StopsAt(drain, unmap));
  drain.Open();
  parked.Open();
  unmap.Join();
  EXPECT_EQ(tight.RetiredStats().pending_bytes, 0u);
}

//   unmap of the last page           unmap of one of two pages
//   retires its tables; they are
//   above the cap; waits
//                                    retires nothing; does not wait
TEST_F(TableRaceTest, AnUnmapThatRetiresNoTableDoesNotWaitForTheBacklog) {
  Stage2 tight(0);
  Map(tight, kGfn);
  Map(tight, {0});
  Map(tight, {1});
  Gate parked("parked");
  Task reader("reader", ParkInReadSection);  // keeps the backlog
  ASSERT_TRUE(StopsAt(parked, reader));
  Gate drain("retired-drain");
  Task retires("retires", [&] { Unmap(tight, kGfn); });
  ASSERT_TRUE(StopsAt(drain, retires));
  Gate second("retired-drain");
  Task unmap("retires nothing", [&] { Unmap(tight, {0}); });
  EXPECT_FALSE(StopsAt(second, unmap));
}

// The same of brackets: a page is invalidated while another bracket waits for the backlog.
TEST_F(TableRaceTest, ABeginThatRetiresNoTableDoesNotWaitForTheBacklog) {
  FakeHost host(3);
  Mmu mmu(host, {.retired_cap_bytes = 0});
  ASSERT_TRUE(mmu.CreateMemslot({.id = 0, .gfns = {{0}, {2}}, .hva = host.PageAt(0)}).ok());
  ASSERT_TRUE(mmu.CreateMemslot({.id = 1, .gfns = {kGfn, kGfn + 1}, .hva = host.PageAt(2)}).ok());
  {
    Reader reader(mmu.readers());
    for (const Gfn gfn : {Gfn{0}, Gfn{1}, kGfn}) {
      ASSERT_EQ(mmu.faults().FaultIn(reader, gfn, Access::kRead).outcome, FaultInOutcome::kMapped);
    }
  }
  const auto invalidate = [&](uint64_t page) {
    InvalidationScope bracket(mmu.notifier(), {host.Pages(page)});
  };
  Gate parked("parked");
  Task reader("reader", ParkInReadSection);  // keeps the backlog
  ASSERT_TRUE(StopsAt(parked, reader));
  Gate drain("retired-drain");
  Task retires("retires", [&] { invalidate(2); });
  ASSERT_TRUE(StopsAt(drain, retires));
  Gate second("retired-drain");
  Task begin("retires nothing", [&] { invalidate(0); });
  EXPECT_FALSE(StopsAt(second, begin));
}

TEST_F(TableRaceTest, DestructionOutlastsAParkedWalker) {
  auto* doomed = new Stage2;
  Map(*doomed, kGfn);
  Gate parked("parked");
  Task reader("reader", ParkInReadSection);
  ASSERT_TRUE(StopsAt(parked, reader));
  Gate drain("retired-drain");
  Task destroy("destruction", [&] { delete doomed; });
  ASSERT_TRUE(StopsAt(drain, destroy));
  EXPECT_EQ(doomed->RetiredStats().freed, 0u);  // its members live until the drain returns
  drain.Open();
  parked.Open();
  destroy.Join();
}

// A block is split while an installer publishes the write permission for it. The new leaves have no
// tag, so nothing is written.
TEST_F(TableRaceTest, ARelaxOfABlockLosesToItsSplit) {
  constexpr Gfn kBlock{0x80000};
  ASSERT_EQ(stage2_.TryClaim(kBlock, 1, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2_.Publish(kBlock, kMe, Pte::Leaf({0x1000}, Access::kRead)));
  ASSERT_EQ(stage2_.TryClaim(kBlock, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  Gate gate("publish-exchange");
  bool published = true;
  Task relax("relax", [&] {
    published = stage2_.Publish(kBlock, kMe, Pte::Leaf({0x1000}, Access::kWrite));
  });
  ASSERT_TRUE(StopsAt(gate, relax));
  Unmap(stage2_, kBlock + 3);
  gate.Open();
  relax.Join();
  EXPECT_FALSE(published);
  EXPECT_FALSE(Mapped(kBlock + 3));
  for (const RawEntry& leaf : ReadTables(stage2_).leaves) EXPECT_FALSE(leaf.pte.writable());
}

}  // namespace
}  // namespace underfoot::testing
