#include "mmu/stage2/stage2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <optional>
#include <utility>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Gfn kGfn{0x12345};

class Stage2Test : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(stage2_), ""); }

  void Map(Gfn gfn, Pfn pfn, Access granted = Access::kWrite, unsigned level = 0) {
    ASSERT_EQ(stage2_.TryClaim(gfn, level, granted, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(stage2_.Publish(gfn, kMe, Pte::Leaf(pfn, granted)));
  }
  // Whether it flushed.
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
  void Write(Gfn gfn) {
    rcu::ReadScope rcu;
    ASSERT_TRUE(stage2_.Use(gfn, Access::kWrite).has_value());
  }
  // The word of the entry that decides about `gfn`, and an entry like it that must not change.
  uint64_t WordOf(Gfn gfn) {
    const Stage2::Path path = stage2_.WalkPath(gfn);
    return path.entries[path.last_level].word();
  }

  Stage2 stage2_;
};

TEST_F(Stage2Test, AFreshOneHoldsTheRootAlone) {
  EXPECT_EQ(stage2_.Stats().tables, 1u);
  EXPECT_THAT(LeafLines(stage2_), IsEmpty());
}

TEST_F(Stage2Test, AClaimReservesAndAPublicationMaps) {
  const ClaimResult claim = stage2_.TryClaim(kGfn, 0, Access::kRead, kMe);
  EXPECT_EQ(claim.outcome, ClaimOutcome::kClaimed);
  EXPECT_EQ(WordOf(kGfn), Pte::Claim(kMe).word());
  EXPECT_EQ(stage2_.TryClaim(kGfn, 0, Access::kRead, kOther).outcome, ClaimOutcome::kBusy);
  EXPECT_TRUE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kRead)));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 -y-"));
  EXPECT_EQ(stage2_.Stats().tables, 4u);
  EXPECT_EQ(stage2_.Stats().maps, 1u);
}

TEST_F(Stage2Test, APublicationNeedsItsOwnClaim) {
  EXPECT_FALSE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kRead)));
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kRead, kOther).outcome, ClaimOutcome::kClaimed);
  EXPECT_FALSE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kRead)));
  EXPECT_EQ(WordOf(kGfn), Pte::Claim(kOther).word());
  stage2_.Abandon(kGfn, kOther);
}

TEST_F(Stage2Test, AnAbandonedClaimTakesItsTablesWithIt) {
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_EQ(stage2_.Stats().tables, 4u);
  stage2_.Abandon(kGfn, kOther);  // not its own: nothing happens
  EXPECT_EQ(WordOf(kGfn), Pte::Claim(kMe).word());
  stage2_.Abandon(kGfn, kMe);
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(Stage2Test, AnUnmapStealsAClaimWithoutAFlush) {
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_FALSE(Unmap({kGfn, kGfn + 1}));
  EXPECT_FALSE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), IsEmpty());
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(Stage2Test, AnUnmapThatBeginsInAHoleTakesWhatFollows) {
  constexpr uint64_t kPagesOfATable = 512;
  for (const uint64_t distance : {uint64_t{1}, kPagesOfATable, kPagesOfATable * kPagesOfATable}) {
    Map(kGfn + distance, {0x1000});
    EXPECT_TRUE(Unmap({kGfn, kGfn + distance + 1})) << distance;
    EXPECT_THAT(LeafLines(stage2_), IsEmpty()) << distance;
  }
  EXPECT_FALSE(Unmap({kGfn, kGfn + 1}));
}

TEST_F(Stage2Test, AnUnmapFlushesOnceAndLeavesNoTable) {
  for (uint64_t i = 0; i < 600; ++i) Map(kGfn + i, {0x1000 + i});
  EXPECT_EQ(stage2_.Stats().leaves_4k, 600u);
  EXPECT_TRUE(Unmap({kGfn, kGfn + 600}));
  EXPECT_EQ(stage2_.Stats().flushes, 1u);
  EXPECT_EQ(stage2_.Stats().unmaps, 600u);
  EXPECT_EQ(stage2_.Stats().tables, 1u);
  EXPECT_FALSE(Unmap({kGfn, kGfn + 600})) << "the range lies in one hole";
  Map(kGfn + 700, {0x2000});
  EXPECT_FALSE(Unmap({kGfn, kGfn + 600})) << "a walk through tables meets no leaf";
  EXPECT_EQ(stage2_.Stats().flushes, 1u);
}

TEST_F(Stage2Test, AnUnmapTakesItsRangeAndNothingElse) {
  for (uint64_t i = 0; i < 4; ++i) Map(kGfn + i, {0x100 + i});
  EXPECT_TRUE(Unmap({kGfn + 1, kGfn + 3}));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x100 wy-", "0x12348+1 -> 0x103 wy-"));
}

// The last pages of a table, a block, and the first page of the next table.
TEST_F(Stage2Test, AUseOfARangeGoesThroughTablesAndBlocks) {
  constexpr Gfn kBlock{0x12400};
  Map(kBlock - 2, {0x100});
  Map(kBlock - 1, {0x101});
  ASSERT_EQ(stage2_.TryClaim(kBlock, 1, Access::kWrite, kOther).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2_.Publish(kBlock, kOther, Pte::Leaf({0x40000}, Access::kWrite)));
  Map(kBlock + kEntries, {0x200}, Access::kRead);
  const GfnRange all{kBlock - 2, kBlock + kEntries + 1};
  std::optional<rcu::ReadScope> rcu(std::in_place);
  EXPECT_EQ(stage2_.UseRange(all, Access::kRead), all.size());
  EXPECT_EQ(stage2_.UseRange(all, Access::kWrite), all.size() - 1) << "the last one is read-only";
  for (const Gfn gfn : {all.begin, kBlock - 1, kBlock, kBlock + 7}) {
    EXPECT_TRUE(stage2_.Lookup(gfn)->pte.dirty()) << gfn.value;
  }
  EXPECT_FALSE(stage2_.Lookup(kBlock + kEntries)->pte.dirty());
  rcu.reset();
  ASSERT_EQ(stage2_.TryClaim(all.end, 0, Access::kRead, kOther).outcome, ClaimOutcome::kClaimed);
  rcu.emplace();
  EXPECT_EQ(stage2_.UseRange({all.end - 1, all.end + 2}, Access::kRead), 1u) << "a claim ends it";
  EXPECT_EQ(stage2_.UseRange({kBlock + 3, kBlock + 5}, Access::kWrite), 2u);
  rcu.reset();
  stage2_.Abandon(all.end, kOther);
}

constexpr Gfn kTable{0x12400};  // the first frame of a table of pages
constexpr GfnRange kWholeTable{kTable, kTable + kEntries};

// With a log each entry is emptied; without one the table is detached.
class WholeTableTest : public Stage2Test, public ::testing::WithParamInterface<bool> {
 protected:
  bool UnmapTable() {
    MmuGather gather;
    stage2_.Unmap(kWholeTable, gather, {.log = GetParam() ? &log_ : nullptr, .first = kTable});
    return stage2_.Finish(gather);
  }

  DirtyLog log_{kEntries};
};
INSTANTIATE_TEST_SUITE_P(WithAndWithoutALog, WholeTableTest, ::testing::Bool());

TEST_P(WholeTableTest, AnUnmapTakesItsLeavesAndItsClaims) {
  Map(kTable + 0, {0x100});
  Map(kTable + 7, {0x107}, Access::kRead);
  Map(kTable + 511, {0x2ff});
  ASSERT_EQ(stage2_.TryClaim(kTable + 8, 0, Access::kRead, kOther).outcome, ClaimOutcome::kClaimed);
  ASSERT_EQ(stage2_.TryClaim(kTable + 7, 0, Access::kWrite, kOther).outcome, ClaimOutcome::kClaimed)
      << "a leaf that is being relaxed goes too";
  EXPECT_TRUE(UnmapTable());
  EXPECT_FALSE(stage2_.Publish(kTable + 8, kOther, Pte::Leaf({0x108}, Access::kRead)));
  EXPECT_FALSE(stage2_.Publish(kTable + 7, kOther, Pte::Leaf({0x107}, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), IsEmpty());
  EXPECT_EQ(stage2_.Stats().tables, 1u);
  EXPECT_EQ(stage2_.RetiredStats().retired, 3u);
  rcu::Barrier();
  EXPECT_EQ(stage2_.Stats().unmaps, 4u) << "three leaves and a claim";
  EXPECT_EQ(stage2_.Stats().leaves_4k, 0u);
  EXPECT_EQ(stage2_.RetiredStats().pending_tables, 0u);
}

TEST_P(WholeTableTest, AnUnmapKeepsTheTablesBesideIt) {
  Map(kTable - 1, {0xff});
  Map(kTable, {0x100});
  Map(kWholeTable.end, {0x300});
  EXPECT_TRUE(UnmapTable());
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x123ff+1 -> 0xff wy-", "0x12600+1 -> 0x300 wy-"));
}

TEST_P(WholeTableTest, AnUnmapOfClaimsFlushesNothing) {
  ASSERT_EQ(stage2_.TryClaim(kTable, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_EQ(stage2_.Stats().leaves_4k, 1u) << "counted from the claim on";
  EXPECT_FALSE(UnmapTable());
  EXPECT_EQ(stage2_.Stats().unmaps, 1u);
  EXPECT_EQ(stage2_.Stats().leaves_4k, 0u);
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_P(WholeTableTest, AnUnmapOfPagesInTurnFlushesOnceForEach) {
  Map(kTable, {0x100});
  EXPECT_TRUE(UnmapTable());
  EXPECT_FALSE(UnmapTable());
  Map(kTable, {0x101});
  EXPECT_TRUE(UnmapTable());
  EXPECT_EQ(stage2_.Stats().flushes, 2u);
}

TEST_F(Stage2Test, AnUnmapOfAWholeTableReportsItsDirtyPages) {
  DirtyLog log(2 * kEntries);
  for (const uint64_t page : {0, 5, 6, 511}) Map(kTable + page, {0x100 + page});
  Write(kTable + 5);
  Write(kTable + 511);
  MmuGather gather;
  stage2_.Unmap(kWholeTable, gather, {.log = &log, .first = kTable - kEntries});
  stage2_.Finish(gather);
  EXPECT_FALSE(log.RemovalsUnderWay());
  const DirtyBitmap dirty = log.Take();
  for (uint64_t page = 0; page < 2 * kEntries; ++page) {
    EXPECT_EQ(dirty.Contains(page), page == kEntries + 5 || page == kEntries + 511) << page;
  }
}

TEST_F(Stage2Test, AWalkOfEverythingFindsTheFirstAndTheLastGfn) {
  const Gfn last{(uint64_t{1} << 36) - 1};
  Map({0}, {1});
  Map(last, {2});
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x0+1 -> 0x1 wy-", "0xfffffffff+1 -> 0x2 wy-"));
  EXPECT_TRUE(Unmap({{0}, last + 1}));
  EXPECT_THAT(LeafLines(stage2_), IsEmpty());
}

TEST_F(Stage2Test, ALookUpFindsWhatIsMappedAndNothingElse) {
  Map(kGfn, {0x55});
  rcu::ReadScope rcu;
  ASSERT_TRUE(stage2_.Lookup(kGfn).has_value());
  EXPECT_EQ(stage2_.Lookup(kGfn)->pte.pfn(), Pfn{0x55});
  EXPECT_EQ(stage2_.Lookup(kGfn)->level, 0u);
  EXPECT_FALSE(stage2_.Lookup(kGfn + 1).has_value());
  EXPECT_FALSE(stage2_.Lookup({uint64_t{1} << 36}).has_value());
}

TEST_F(Stage2Test, APresentLeafIsNotClaimed) {
  Map(kGfn, {0x55}, Access::kWrite);
  const uint64_t before = WordOf(kGfn);
  const ClaimResult claim = stage2_.TryClaim(kGfn, 0, Access::kWrite, kOther);
  EXPECT_EQ(claim.outcome, ClaimOutcome::kPresent);
  EXPECT_EQ(claim.pte.pfn(), Pfn{0x55});
  EXPECT_EQ(WordOf(kGfn), before);
  EXPECT_EQ(stage2_.Stats().maps, 1u);
}

TEST_F(Stage2Test, ARelaxNeverBreaksTheEntry) {
  Map(kGfn, {0x55}, Access::kRead);
  EXPECT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 -y-"));
  EXPECT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kOther).outcome, ClaimOutcome::kBusy);
  EXPECT_EQ(stage2_.TryClaim(kGfn, 0, Access::kRead, kOther).outcome, ClaimOutcome::kPresent);
  EXPECT_TRUE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite).Dirty()));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 wyd"));
  EXPECT_EQ(stage2_.Stats().leaves_4k, 1u);
}

TEST_F(Stage2Test, ARelaxGivenUpLeavesTheLeafAsItWas) {
  Map(kGfn, {0x55}, Access::kRead);
  const uint64_t before = WordOf(kGfn);
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  stage2_.Abandon(kGfn, kMe);
  EXPECT_EQ(WordOf(kGfn), before);
}

TEST_F(Stage2Test, DirtyComesWithTheInstallAndNotBefore) {
  Map(kGfn, {0x55}, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 -y-"));
  WriteProtect({kGfn, kGfn + 1});  // steals it
  EXPECT_FALSE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite).Dirty()));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 -y-"));
}

TEST_F(Stage2Test, ARelaxKeepsDirty) {
  Map(kGfn, {0x55});
  Write(kGfn);
  WriteProtect({kGfn, kGfn + 1});
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_TRUE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 wyd"));
}

// An ageing pass between claim and publication is no theft: given up, the tag would stay and lock
// its owner out for ever.
TEST_F(Stage2Test, ARelaxSurvivesAgeing) {
  Map(kGfn, {0x55}, Access::kRead);
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_TRUE(stage2_.TestClearYoung({kGfn, kGfn + 1}, true));
  EXPECT_TRUE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite)));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 wy-"));
}

TEST_F(Stage2Test, AWriteProtectKeepsTheTranslationAndDirty) {
  Map(kGfn, {0x55});
  Write(kGfn);
  EXPECT_TRUE(WriteProtect({kGfn, kGfn + 1}));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 -yd"));
  EXPECT_EQ(stage2_.Stats().flushes, 1u);
}

// The MMU checks it: while the entry's memory is read-only, a write to it would be the end.
TEST_F(Stage2Test, AnIdenticalLeafIsNeverRewritten) {
  Map(kGfn, {0x55}, Access::kRead);
  stage2_.TestClearYoung({kGfn, kGfn + 1}, true);
  const Stage2::Path path = stage2_.WalkPath(kGfn);
  Entry& entry = path.entries[1].table()->entries[IndexOf(kGfn, 0)];
  rcu::Barrier();  // so no neighbour of the entry is freed meanwhile
  void* page = PointerOf(PageOf(HvaOf(&entry)));
  MmuGather gather;
  ASSERT_EQ(::mprotect(page, kPageSize, PROT_READ), 0);
  stage2_.WriteProtect({kGfn, kGfn + 1}, gather);
  const bool young = stage2_.TestClearYoung({kGfn, kGfn + 1}, true);
  const ClaimOutcome claim = stage2_.TryClaim(kGfn, 0, Access::kRead, kOther).outcome;
  ASSERT_EQ(::mprotect(page, kPageSize, PROT_READ | PROT_WRITE), 0);
  EXPECT_FALSE(young);
  EXPECT_EQ(claim, ClaimOutcome::kPresent);
  EXPECT_FALSE(stage2_.Finish(gather));
  EXPECT_EQ(stage2_.Stats().flushes, 0u);
}

TEST_F(Stage2Test, AWriteProtectStealsClaims) {
  ASSERT_EQ(stage2_.TryClaim(kGfn, 0, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  EXPECT_FALSE(WriteProtect({kGfn, kGfn + 1}));
  EXPECT_FALSE(stage2_.Publish(kGfn, kMe, Pte::Leaf({0x55}, Access::kWrite)));
  EXPECT_EQ(stage2_.Stats().tables, 1u);
}

TEST_F(Stage2Test, AgeingTestsAndClears) {
  Map(kGfn, {0x55});
  Map(kGfn + 3, {0x58});
  const GfnRange both{kGfn, kGfn + 4};
  EXPECT_TRUE(stage2_.TestClearYoung(both, false));
  EXPECT_TRUE(stage2_.TestClearYoung(both, true));
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 w--", "0x12348+1 -> 0x58 w--"));
  EXPECT_FALSE(stage2_.TestClearYoung(both, true));
  Write(kGfn + 3);
  EXPECT_TRUE(stage2_.TestClearYoung(both, false));
  EXPECT_FALSE(stage2_.TestClearYoung({kGfn, kGfn + 3}, false));
}

TEST_F(Stage2Test, AMarkOnALeafThatHasChangedIsMadeAgain) {
  Map(kGfn, {0x55});
  bool changed = false;
  SetSyncPoint("use-marks", [&] {
    if (std::exchange(changed, true)) return;
    stage2_.TestClearYoung({kGfn, kGfn + 1}, true);
  });
  rcu::ReadScope rcu;
  EXPECT_TRUE(stage2_.Use(kGfn, Access::kWrite).has_value());
  ClearSyncPoints();
  EXPECT_TRUE(changed);
  EXPECT_THAT(LeafLines(stage2_), ElementsAre("0x12345+1 -> 0x55 wyd"));
}

// The second walk finds no leaf any more.
TEST_F(Stage2Test, AMarkOnALeafThatHasGoneIsRefused) {
  Map(kGfn, {0x55});
  MmuGather gather;
  SetSyncPoint("use-marks", [&] { stage2_.Unmap({kGfn, kGfn + 1}, gather); });
  {
    rcu::ReadScope rcu;
    EXPECT_FALSE(stage2_.Use(kGfn, Access::kWrite).has_value());
  }
  ClearSyncPoints();
  EXPECT_TRUE(stage2_.Finish(gather));
}

TEST_F(Stage2Test, APathShowsEveryLevel) {
  Map(kGfn, {0x55});
  const Stage2::Path path = stage2_.WalkPath(kGfn);
  EXPECT_EQ(path.last_level, 0u);
  for (unsigned level = 1; level < kLevels; ++level) {
    EXPECT_TRUE(path.entries[level].is_table()) << level;
  }
  EXPECT_EQ(stage2_.WalkPath({0}).last_level, 1u);  // shares two tables with kGfn
  EXPECT_EQ(stage2_.WalkPath({uint64_t{1} << 27}).last_level, 3u);
}

TEST_F(Stage2Test, DestructionFreesWhatIsMapped) {
  Stage2 other;
  for (uint64_t i = 0; i < 10; ++i) {
    const Gfn gfn{i << 20};
    ASSERT_EQ(other.TryClaim(gfn, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
    ASSERT_TRUE(other.Publish(gfn, kMe, Pte::Leaf({i}, Access::kRead)));
  }
  ASSERT_EQ(other.TryClaim({5}, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
}

}  // namespace
}  // namespace underfoot::testing
