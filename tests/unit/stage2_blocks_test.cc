// Blocks: leaves of 2 MiB and 1 GiB, in whole and in part.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mmu/base/rcu.h"
#include "mmu/stage2/stage2.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Gfn kBlockGfn{3 * k1G + 4 * k2M};
constexpr Gfn kBigBlock{5 * k1G};
constexpr GfnRange kWhole{kBlockGfn, kBlockGfn + k2M};
constexpr Pfn kBlockPfn{0x40000};

class Stage2BlocksTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(stage2_), ""); }

  void Map(Gfn gfn, unsigned level, Access granted = Access::kWrite) {
    ASSERT_EQ(stage2_.TryClaim(gfn, level, granted, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2_.Publish(gfn, kMe, Pte::Leaf(kBlockPfn, granted)));
  }
  bool Unmap(GfnRange range) {
    MmuGather gather;
    stage2_.Unmap(range, gather);
    return stage2_.Finish(gather);
  }
  bool WriteProtect(GfnRange range) {
    MmuGather gather;
    stage2_.WriteProtect(range, gather);
    return stage2_.Finish(gather);
  }
  // Every page of `range` translates as `writable` says, to its place behind kBlockPfn.
  void ExpectPages(GfnRange range, Gfn block, bool writable) {
    rcu::ReadScope rcu;
    for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
      const auto leaf = stage2_.Lookup(gfn);
      ASSERT_TRUE(leaf.has_value()) << gfn.value;
      const uint64_t page_in_leaf = gfn - EntryRange(gfn, leaf->level).begin;
      ASSERT_EQ(leaf->pte.pfn() + page_in_leaf, kBlockPfn + (gfn - block)) << gfn.value;
      ASSERT_EQ(leaf->pte.writable(), writable) << gfn.value;
    }
  }
  void ExpectHoles(GfnRange range) {
    rcu::ReadScope rcu;
    for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
      ASSERT_FALSE(stage2_.Lookup(gfn).has_value()) << gfn.value;
    }
  }

  Stage2 stage2_;
};

TEST_F(Stage2BlocksTest, ABlockIsClaimedAtItsLevel) {
  ASSERT_EQ(stage2_.TryClaim(kBlockGfn + 9, 1, Access::kWrite, kMe).outcome,
            ClaimOutcome::kClaimed);
  EXPECT_EQ(stage2_.Stats().tables, 3u);
  EXPECT_EQ(stage2_.TryClaim(kBlockGfn, 0, Access::kRead, kOther).outcome, ClaimOutcome::kBusy);
  ASSERT_TRUE(stage2_.Publish(kBlockGfn + 9, kMe, Pte::Leaf(kBlockPfn, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0xc0800+512 -> 0x40000 wy-"));
  EXPECT_EQ(stage2_.Stats().leaves_2m, 1u);
  EXPECT_EQ(stage2_.TryClaim(kBlockGfn + 100, 0, Access::kWrite, kOther).outcome,
            ClaimOutcome::kPresent);
  EXPECT_EQ(stage2_.TryClaim(kBlockGfn + 100, 1, Access::kWrite, kOther).outcome,
            ClaimOutcome::kPresent);
}

TEST_F(Stage2BlocksTest, ABlockIsNotClaimedWhereATableIs) {
  Map(kBlockGfn + 9, 0);
  EXPECT_EQ(stage2_.TryClaim(kBlockGfn, 1, Access::kRead, kMe).outcome, ClaimOutcome::kTable);
}

TEST_F(Stage2BlocksTest, AnUnmapOfTheWholeTakesTheBlock) {
  Map(kBlockGfn, 1);
  EXPECT_TRUE(Unmap(kWhole));
  EXPECT_THAT(LeafLines(stage2_), IsEmpty());
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(Stage2BlocksTest, AnUnmapOfAPartKeepsTheRest) {
  Map(kBlockGfn, 1);
  EXPECT_TRUE(Unmap({kBlockGfn + 5, kBlockGfn + 7}));
  EXPECT_EQ(stage2_.Stats().flushes, 1u);
  EXPECT_EQ(stage2_.Stats().leaves_2m, 0u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, k2M - 2);
  ExpectHoles({kBlockGfn + 5, kBlockGfn + 7});
  ExpectPages({kBlockGfn, kBlockGfn + 5}, kBlockGfn, true);
  ExpectPages({kBlockGfn + 7, kWhole.end}, kBlockGfn, true);
}

TEST_F(Stage2BlocksTest, AnUnmapInTheMiddleOfABigBlockSplitsTwoLevels) {
  Map(kBigBlock, 2);
  EXPECT_TRUE(Unmap({kBigBlock + k2M + 1, kBigBlock + k2M + 2}));
  EXPECT_EQ(stage2_.Stats().leaves_2m, 511u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, 511u);
  EXPECT_EQ(stage2_.Stats().tables, 4u);
  ExpectHoles({kBigBlock + k2M + 1, kBigBlock + k2M + 2});
  ExpectPages({kBigBlock + k2M, kBigBlock + k2M + 1}, kBigBlock, true);
  ExpectPages({kBigBlock + 2 * k2M, kBigBlock + 3 * k2M}, kBigBlock, true);
}

TEST_F(Stage2BlocksTest, AWriteProtectOfTheWholeKeepsTheBlock) {
  Map(kBlockGfn, 1);
  EXPECT_TRUE(WriteProtect(kWhole));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0xc0800+512 -> 0x40000 -y-"));
}

TEST_F(Stage2BlocksTest, AWriteProtectOfAPartSplitsAndBreaksNothing) {
  Map(kBlockGfn, 1);
  EXPECT_TRUE(WriteProtect({kBlockGfn + 5, kBlockGfn + 7}));
  EXPECT_EQ(stage2_.Stats().leaves_2m, 0u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, k2M);
  EXPECT_EQ(stage2_.Stats().unmaps, 0u);
  ExpectPages({kBlockGfn, kBlockGfn + 5}, kBlockGfn, true);
  ExpectPages({kBlockGfn + 5, kBlockGfn + 7}, kBlockGfn, false);
  ExpectPages({kBlockGfn + 7, kWhole.end}, kBlockGfn, true);
}

TEST_F(Stage2BlocksTest, AWriteProtectOfAPartLeavesAReadOnlyBlockAlone) {
  Map(kBlockGfn, 1, Access::kRead);
  EXPECT_FALSE(WriteProtect({kBlockGfn + 5, kBlockGfn + 7}));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0xc0800+512 -> 0x40000 -y-"));
}

TEST_F(Stage2BlocksTest, AWriteProtectInTheMiddleOfABigBlockSplitsTwoLevels) {
  Map(kBigBlock, 2);
  EXPECT_TRUE(WriteProtect({kBigBlock + k2M + 1, kBigBlock + k2M + 2}));
  EXPECT_EQ(stage2_.Stats().leaves_2m, 511u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, 512u);
  ExpectPages({kBigBlock + k2M + 1, kBigBlock + k2M + 2}, kBigBlock, false);
  ExpectPages({kBigBlock + k2M + 2, kBigBlock + 2 * k2M}, kBigBlock, true);
}

TEST_F(Stage2BlocksTest, ARelaxOfTheWholeStaysABlock) {
  Map(kBlockGfn, 1, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kBlockGfn, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2_.Publish(kBlockGfn, kMe, Pte::Leaf(kBlockPfn, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0xc0800+512 -> 0x40000 wy-"));
}

// A fault for one page must not make the whole block writable, nor give it that page's frame.
TEST_F(Stage2BlocksTest, ARelaxOfOnePageSplitsTheBlockFirst) {
  Map(kBlockGfn, 1, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kBlockGfn + 5, 0, Access::kWrite, kMe).outcome,
            ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2_.Publish(kBlockGfn + 5, kMe, Pte::Leaf(kBlockPfn + 5, Access::kWrite)));
  ExpectPages({kBlockGfn, kBlockGfn + 5}, kBlockGfn, false);
  ExpectPages({kBlockGfn + 5, kBlockGfn + 6}, kBlockGfn, true);
  ExpectPages({kBlockGfn + 6, kWhole.end}, kBlockGfn, false);
}

TEST_F(Stage2BlocksTest, ARelaxOfOnePageSplitsABigBlockToItsLevel) {
  Map(kBigBlock, 2, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kBigBlock + 5, 0, Access::kWrite, kMe).outcome,
            ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2_.Publish(kBigBlock + 5, kMe, Pte::Leaf(kBlockPfn + 5, Access::kWrite)));
  EXPECT_EQ(stage2_.Stats().leaves_2m, 511u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, 512u);
  ExpectPages({kBigBlock, kBigBlock + 5}, kBigBlock, false);
  ExpectPages({kBigBlock + 5, kBigBlock + 6}, kBigBlock, true);
  ExpectPages({kBigBlock + k2M, kBigBlock + k2M + 9}, kBigBlock, false);
}

TEST_F(Stage2BlocksTest, ASplitStealsARelaxOfTheBlock) {
  Map(kBlockGfn, 1, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kBlockGfn, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_TRUE(Unmap({kBlockGfn, kBlockGfn + 1}));
  EXPECT_FALSE(stage2_.Publish(kBlockGfn, kMe, Pte::Leaf(kBlockPfn, Access::kWrite)));
  EXPECT_FALSE(stage2_.Publish(kBlockGfn + 1, kMe, Pte::Leaf(kBlockPfn, Access::kWrite)));
  ExpectPages({kBlockGfn + 1, kWhole.end}, kBlockGfn, false);
}

TEST_F(Stage2BlocksTest, AnUnmapOfAPartStealsAClaimOfTheBlock) {
  ASSERT_EQ(stage2_.TryClaim(kBlockGfn, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_FALSE(Unmap({kBlockGfn + 5, kBlockGfn + 6}));
  EXPECT_FALSE(stage2_.Publish(kBlockGfn, kMe, Pte::Leaf(kBlockPfn, Access::kWrite)));
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(Stage2BlocksTest, ASplitKeepsDirtyAndYoung) {
  Map(kBlockGfn, 1);
  {
    rcu::ReadScope rcu;
    ASSERT_TRUE(stage2_.Use(kBlockGfn + 3, Access::kWrite).has_value());
  }
  WriteProtect({kBlockGfn + 8, kBlockGfn + 9});
  for (const RawEntry& leaf : ReadTables(stage2_).leaves) {
    EXPECT_TRUE(leaf.pte.dirty() && leaf.pte.young()) << leaf.gfn.value;
  }
}

TEST_F(Stage2BlocksTest, AnUnmapOfAPartKeepsDirtyAndYoungOfTheRest) {
  Map(kBlockGfn, 1);
  {
    rcu::ReadScope rcu;
    ASSERT_TRUE(stage2_.Use(kBlockGfn + 3, Access::kWrite).has_value());
  }
  Unmap({kBlockGfn + 8, kBlockGfn + 9});
  const auto leaves = ReadTables(stage2_).leaves;
  EXPECT_EQ(leaves.size(), k2M - 1);
  for (const RawEntry& leaf : leaves) {
    EXPECT_TRUE(leaf.pte.dirty() && leaf.pte.young()) << leaf.gfn.value;
  }
}

TEST_F(Stage2BlocksTest, AgeingSeesABlock) {
  Map(kBlockGfn, 1);
  EXPECT_TRUE(stage2_.TestClearYoung({kBlockGfn + 7, kBlockGfn + 8}, true));
  EXPECT_FALSE(stage2_.TestClearYoung(kWhole, false));
}

TEST_F(Stage2BlocksTest, ABlockFollowsItsOwnPages) {
  Map(kBlockGfn + 9, 0);
  EXPECT_TRUE(Unmap(kWhole));
  Map(kBlockGfn, 1);
  EXPECT_EQ(stage2_.Stats().leaves_2m, 1u);
  EXPECT_EQ(stage2_.Stats().tables, 3u);
}

}  // namespace
}  // namespace underfoot::testing
