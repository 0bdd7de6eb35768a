// Eager splitting from a pool, and the teardown of many tables in short walks.

#include <gtest/gtest.h>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "mmu/stage2/stage2.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Pfn kPfn{0x40000};
constexpr GfnRange kBig{{5 * k1G}, {6 * k1G}};

class Stage2SplitTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(stage2_), ""); }

  void Map(Gfn gfn, unsigned level, Pte leaf) {
    ASSERT_EQ(stage2_.TryClaim(gfn, level, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2_.Publish(gfn, kMe, leaf));
  }
  void ExpectTranslations(GfnRange range, unsigned level) {
    rcu::ReadScope rcu;
    for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
      const auto leaf = stage2_.Lookup(gfn);
      ASSERT_TRUE(leaf.has_value()) << gfn.value;
      ASSERT_EQ(leaf->level, level) << gfn.value;
      const uint64_t in_leaf = gfn - EntryRange(gfn, level).begin;
      ASSERT_EQ(leaf->pte.pfn() + in_leaf, kPfn + (gfn - kBig.begin)) << gfn.value;
      ASSERT_TRUE(leaf->pte.dirty()) << gfn.value;
    }
  }

  Stage2 stage2_;
};

TEST_F(Stage2SplitTest, ABigBlockBecomesBlocksAndKeepsItsBits) {
  Map(kBig.begin, 2, Pte::Leaf(kPfn, Access::kWrite).Dirty());
  TablePool pool(1);
  EXPECT_EQ(stage2_.Split(kBig, 1, pool), kBig.end);
  EXPECT_EQ(pool.size(), 0u);
  EXPECT_EQ(stage2_.Stats().leaves_2m, 512u);
  EXPECT_EQ(stage2_.Stats().leaves_1g, 0u);
  ExpectTranslations(kBig, 1);
}

TEST_F(Stage2SplitTest, WithAnEmptyPoolItReportsItsProgress) {
  Map(kBig.begin, 2, Pte::Leaf(kPfn, Access::kWrite).Dirty());
  TablePool pool(4);
  const Gfn reached = stage2_.Split(kBig, 0, pool);
  EXPECT_EQ(reached, kBig.begin + 3 * k2M);  // one table for the 1 GiB, three for 2 MiB each
  ExpectTranslations({kBig.begin, reached}, 0);
  ExpectTranslations({reached, kBig.end}, 1);
  pool.Fill();
  EXPECT_EQ(stage2_.Split({reached, kBig.end}, 0, pool), reached + 4 * k2M);
}

TEST_F(Stage2SplitTest, BlocksOutsideTheRangeStay) {
  for (uint64_t i = 0; i < 4; ++i) {
    const Gfn gfn = kBig.begin + i * k2M;
    Map(gfn, 1, Pte::Leaf(kPfn + i * k2M, Access::kWrite).Dirty());
  }
  TablePool pool(8);
  EXPECT_EQ(stage2_.Split({kBig.begin + k2M + 5, kBig.begin + 3 * k2M}, 0, pool),
            kBig.begin + 3 * k2M);
  EXPECT_EQ(pool.size(), 6u);
  EXPECT_EQ(stage2_.Stats().leaves_2m, 2u);
  ExpectTranslations({kBig.begin + k2M, kBig.begin + 3 * k2M}, 0);
}

TEST_F(Stage2SplitTest, APageThatIsSplitOffIsUnmappedAlone) {
  Map(kBig.begin, 1, Pte::Leaf(kPfn, Access::kWrite).Dirty());
  TablePool pool(1);
  ASSERT_EQ(stage2_.Split({kBig.begin, kBig.begin + 1}, 0, pool), kBig.begin + 1);
  MmuGather gather;
  stage2_.Unmap({kBig.begin, kBig.begin + 1}, gather);
  EXPECT_TRUE(stage2_.Finish(gather));
  EXPECT_EQ(stage2_.Stats().leaves_4k, 511u);
}

TEST_F(Stage2SplitTest, ATableIsPublishedOnlyOverItsOwnersClaim) {
  const auto full = [] {
    std::array<Pte, kEntries> leaves;
    for (unsigned i = 0; i < kEntries; ++i) leaves[i] = Pte::Leaf(kPfn + i, Access::kWrite).Dirty();
    return MakePrivateTable(0, leaves);
  };
  EXPECT_FALSE(stage2_.PublishTable(kBig.begin, kMe, full())) << "there is no claim";
  ASSERT_EQ(stage2_.TryClaim(kBig.begin, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_FALSE(stage2_.PublishTable(kBig.begin, kMe + 1, full())) << "the claim is another's";
  EXPECT_TRUE(stage2_.PublishTable(kBig.begin, kMe, full()));
  EXPECT_EQ(stage2_.Stats().leaves_4k, 512u);
  ExpectTranslations({kBig.begin, kBig.begin + k2M}, 0);
}

void MapAPageOfEachTable(Stage2& stage2, uint64_t tables) {
  for (uint64_t i = 0; i < tables; ++i) {
    const Gfn gfn{i * k2M};
    ASSERT_EQ(stage2.TryClaim(gfn, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2.Publish(gfn, kMe, Pte::Leaf(kPfn, Access::kRead)));
  }
}

// A teardown is many short walks. When the tables of some of them exceed the cap, the teardown
// frees them, so that the tables that wait for a grace period stay near the cap, however large the
// range is.
TEST(Stage2TearDownTest, TheBacklogOfALargeTeardownKeepsToItsCap) {
  constexpr uint64_t kTables = 600;
  constexpr uint64_t kCap = 32 * sizeof(Table);
  constexpr uint64_t kTablesOfAWalk = 64 + kLevels;
  Stage2 stage2(kCap);
  ASSERT_NO_FATAL_FAILURE(MapAPageOfEachTable(stage2, kTables));
  stage2.TearDown({{0}, {kTables * k2M}});
  EXPECT_EQ(stage2.Stats().tables, 1u);
  EXPECT_GE(stage2.Stats().flushes, kTables / kTablesOfAWalk);
  EXPECT_GT(stage2.RetiredStats().peak_bytes, 0u);
  EXPECT_LE(stage2.RetiredStats().peak_bytes, kCap + kTablesOfAWalk * sizeof(Table));
  EXPECT_LE(stage2.RetiredStats().pending_bytes, kCap);
  rcu::Barrier();
  EXPECT_EQ(stage2.Stats().leaves_4k, 0u);
}

TEST(Stage2TearDownTest, ATeardownGathersTheTablesOfSeveralWalks) {
  constexpr uint64_t kTables = 600;
  constexpr uint64_t kCap = 200 * sizeof(Table);
  Stage2 stage2(kCap);
  ASSERT_NO_FATAL_FAILURE(MapAPageOfEachTable(stage2, kTables));
  stage2.TearDown({{0}, {kTables * k2M}});
  EXPECT_EQ(stage2.Stats().tables, 1u);
  EXPECT_GT(stage2.Stats().flushes, 1u);
  EXPECT_LE(stage2.Stats().flushes, kTables / 200);
  EXPECT_GT(stage2.RetiredStats().freed, 200u);
}

// More tables than the default cap holds.
TEST(Stage2TearDownTest, ATeardownOfTheGuestForWhichTheCapWasMadeWaitsForNoGracePeriod) {
  constexpr uint64_t kTables = 2 * RetiredTables::kDefaultCapBytes / sizeof(Table);
  Stage2 stage2(RetiredCapFor(kTables * k2M * kPageSize));
  ASSERT_NO_FATAL_FAILURE(MapAPageOfEachTable(stage2, kTables));
  uint64_t waits = 0;
  SetSyncPoint("retired-synchronize", [&] { ++waits; });
  SetSyncPoint("retired-drain", [&] { ++waits; });
  stage2.TearDown({{0}, {kTables * k2M}});
  ClearSyncPoints();
  EXPECT_EQ(waits, 0u);
  EXPECT_EQ(stage2.Stats().flushes, 1u);
}

TEST(Stage2TearDownTest, AnUnmapOfAsManyFlushesOnce) {
  constexpr uint64_t kTables = 200;
  Stage2 stage2;
  ASSERT_NO_FATAL_FAILURE(MapAPageOfEachTable(stage2, kTables));
  MmuGather gather;
  stage2.Unmap({{0}, {kTables * k2M}}, gather);
  EXPECT_TRUE(stage2.Finish(gather));
  EXPECT_EQ(stage2.Stats().flushes, 1u);
  EXPECT_EQ(stage2.Stats().tables, 1u);
}

}  // namespace
}  // namespace underfoot::testing
