// Table pages (P2): claims against the death of a table, frees against parked walkers.

#include <gtest/gtest.h>

#include <optional>

#include "mmu/rcu.h"
#include "mmu/stage2.h"
#include "mmu/sync_point.h"
#include "tests/race/staging.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr OwnerTag kMe = 7;
constexpr OwnerTag kOther = 8;
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

  static void Map(Stage2& stage2, Gfn gfn) {
    ASSERT_EQ(stage2.TryClaim(gfn, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2.Publish(gfn, kMe, Pte::Leaf({0x55}, Access::kRead)));
  }
  static void Unmap(Stage2& stage2, Gfn gfn) {
    WalkDebts debts;
    stage2.Unmap({gfn, gfn + 1}, debts);
    stage2.Finish(debts);
  }
  bool Mapped(Gfn gfn) {
    rcu::ReadScope rcu;
    return stage2_.Lookup(gfn).has_value();
  }

  Stage2 stage2_;
};

//   unmap                           claim
//   the last entry goes, DEAD
//                                   meets the dead table: unlinks it, makes a new one
//   unlinks: somebody was faster
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
//   found a table with room
//                                   the last entry goes, DEAD, unlinked
//   no reference to be had: from the root again
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

// The loser holds the last reference of a table that has become empty meanwhile.
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
  Unmap(stage2_, kGfn);  // unlinks all three
  EXPECT_EQ(stage2_.Stats().tables, 1u);
  gate.Open();
  first.Join();
  EXPECT_EQ(stage2_.RetiredStats().retired, 3u);
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
  Task reader("reader", [] {
    rcu::ReadScope rcu;
    PassSyncPoint("parked");
  });
  ASSERT_TRUE(StopsAt(parked, reader));
  Unmap(tight, kGfn);  // under the cap
  EXPECT_LE(tight.RetiredStats().pending_bytes, 4 * sizeof(Table));
  Gate drain("retired-drain");
  Task unmap("unmap beyond the cap", [&] { Unmap(tight, {0}); });
  ASSERT_TRUE(StopsAt(drain, unmap));
  drain.Open();
  parked.Open();
  unmap.Join();
  EXPECT_EQ(tight.RetiredStats().pending_bytes, 0u);
}

TEST_F(TableRaceTest, DestructionOutlastsAParkedWalker) {
  auto* doomed = new Stage2;
  Map(*doomed, kGfn);
  Gate parked("parked");
  Task reader("reader", [] {
    rcu::ReadScope rcu;
    PassSyncPoint("parked");
  });
  ASSERT_TRUE(StopsAt(parked, reader));
  Gate drain("retired-drain");
  Task destroy("destruction", [&] { delete doomed; });
  ASSERT_TRUE(StopsAt(drain, destroy));
  EXPECT_EQ(doomed->RetiredStats().freed, 0u);  // its members live until the drain returns
  drain.Open();
  parked.Open();
  destroy.Join();
}

// A block is split under a publication that relaxes it: the tag is gone, nothing is written.
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
