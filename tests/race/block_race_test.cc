// Whole blocks against invalidations of one of their pages, and splits against relaxing owners.

#include <gtest/gtest.h>

#include "mmu/mmu.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"
#include "tests/race/staging.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t k2M = PagesAt(1);
constexpr Gfn kFirst{8 * k2M};
constexpr GfnRange kBlock{kFirst, kFirst + k2M};

class BlockRaceTest : public ::testing::Test {
 protected:
  BlockRaceTest() {
    const absl::Status created =
        mmu_.CreateMemslot({.id = 1, .gfns = kBlock, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
  }
  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  }

  void FaultInBlock() {
    Reader reader(mmu_.readers());
    EXPECT_EQ(mmu_.range_faults().FaultIn(reader, kBlock, Access::kRead).outcome,
              FaultOutcome::kMapped);
  }
  void MovePage(uint64_t page) {
    InvalidationScope bracket(mmu_.notifier(), {host_.Pages(page), InvalidationKind::kUnmap});
    host_.Move(host_.Pages(page));
  }
  void ExpectTheHostsFrames() {
    rcu::ReadScope rcu;
    for (uint64_t page = 0; page < k2M; ++page) {
      const auto leaf = mmu_.stage2().Lookup(kFirst + page);
      ASSERT_TRUE(leaf.has_value()) << page;
      const uint64_t in_leaf = (kFirst + page) - EntryRange(kFirst + page, leaf->level).begin;
      ASSERT_EQ(leaf->pte.pfn() + in_leaf, host_.PfnOf(host_.PageAt(page))) << page;
    }
  }

  FakeHost host_{k2M};
  Mmu mmu_{host_};
};

//   installer of the block          invalidation of page 9
//   claim, page-ins: one block
//                                   Begin steals the whole claim; the page moves; End
//   publish: fails, from the start: a table now
TEST_F(BlockRaceTest, ABracketOfOnePageStealsTheClaimOfItsBlock) {
  Gate gate("block-after-page-in");
  Task installer("installer", [&] { FaultInBlock(); });
  ASSERT_TRUE(StopsAt(gate, installer));
  MovePage(9);
  gate.Open();
  installer.Join();
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
  ExpectTheHostsFrames();
}

//   installer of the block          invalidation of page 9
//   claim, page-ins: a table
//   publish: walked to the claim
//                                   Begin steals the claim; the page moves; End
//   publish: the exchange fails
TEST_F(BlockRaceTest, ATableLosesToATheftInItsLastStep) {
  MovePage(3);  // no block: a table
  Gate gate("publish-table");
  Task installer("installer", [&] { FaultInBlock(); });
  ASSERT_TRUE(StopsAt(gate, installer));
  MovePage(9);
  gate.Open();
  installer.Join();
  ExpectTheHostsFrames();
}

//   installer of the block          invalidation of page 9
//                                   Begin: nothing there yet
//   claim; the bracket is in flight: given back, waits
//                                   the page moves; End
//   from the start
TEST_F(BlockRaceTest, AClaimOfABlockWaitsForTheBracketOfAPage) {
  BracketToken bracket = mmu_.notifier().Begin({host_.Pages(9), InvalidationKind::kUnmap});
  Gate gate("wait-for-end");
  Task installer("installer", [&] { FaultInBlock(); });
  ASSERT_TRUE(StopsAt(gate, installer));
  EXPECT_EQ(host_.page_ins(), 0u);
  EXPECT_EQ(mmu_.Stats().stage2.tables, 1u) << "the claim was given back";
  host_.Move(host_.Pages(9));
  gate.Open();
  mmu_.notifier().End(bracket);
  installer.Join();
  ExpectTheHostsFrames();
}

//   collapse                        reader of page 9
//                                   in a section
//   Begin: waits
//                                   leaves
//   one leaf
TEST_F(BlockRaceTest, ACollapseWaitsForTheReadersOfItsBlock) {
  FaultInBlock();
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaOf(kFirst + 9), Access::kRead);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  Task collapse("collapse", [&] {
    Reader own(mmu_.readers());
    EXPECT_EQ(mmu_.range_faults().Collapse(own, mmu_.notifier(), kFirst, 1, Access::kRead).outcome,
              FaultOutcome::kMapped);
  });
  ASSERT_TRUE(StopsAt(gate, collapse));
  gate.Open();
  EXPECT_FALSE(collapse.done());
  page = {};
  collapse.Join();
  ExpectTheHostsFrames();
}

//   owner                           split
//   tags the read-only block
//                                   publishes the pages, without a tag
//   publish: the leaf it finds is not its own
TEST_F(BlockRaceTest, ASplitTakesTheBlockFromARelaxingOwner) {
  Stage2 stage2;
  constexpr OwnerTag kMe = 7;
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kRead)));
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  TablePool pool(1);
  EXPECT_EQ(stage2.Split(kBlock, 0, pool), kBlock.end);
  EXPECT_FALSE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kWrite)));
  EXPECT_EQ(WhatIsWrongWith(stage2), "");
}

//   split                           reader of hardware's kind
//   has read the block, clean
//                                   writes: the block is dirty
//   publish: the exchange fails, the entry is read again
TEST_F(BlockRaceTest, ASplitLosesNoDirtyBit) {
  Stage2 stage2;
  constexpr OwnerTag kMe = 7;
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kWrite)));
  Gate gate("split-publish");
  Task split("split", [&] {
    TablePool pool(2);
    EXPECT_EQ(stage2.Split(kBlock, 0, pool), kBlock.end);
  });
  ASSERT_TRUE(StopsAt(gate, split));
  {
    rcu::ReadScope rcu;
    EXPECT_TRUE(stage2.MarkUsed(kFirst + 5, *stage2.Lookup(kFirst + 5), Access::kWrite));
  }
  gate.Open();
  split.Join();
  rcu::ReadScope rcu;
  EXPECT_TRUE(stage2.Lookup(kFirst + 5)->pte.dirty());
}

//   unmap                           installer
//   emptied the last entry, has not
//   dropped its reference yet
//                                   claims another entry of the table
//   drops the reference: the table stays
TEST_F(BlockRaceTest, ATableThatIsFilledAgainBeforeItsReferenceFallsStays) {
  Stage2 stage2;
  constexpr OwnerTag kMe = 7;
  ASSERT_EQ(stage2.TryClaim(kFirst, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kRead)));
  Gate gate("unmap-before-unref");
  Task unmap("unmap", [&] {
    WalkDebts debts;
    stage2.Unmap({kFirst, kFirst + 1}, debts);
    stage2.Finish(debts);
  });
  ASSERT_TRUE(StopsAt(gate, unmap));
  ASSERT_EQ(stage2.TryClaim(kFirst + 1, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  gate.Open();
  unmap.Join();
  EXPECT_EQ(stage2.Stats().tables, kLevels);
  EXPECT_TRUE(stage2.Publish(kFirst + 1, kMe, Pte::Leaf({0x201}, Access::kRead)));
  EXPECT_EQ(WhatIsWrongWith(stage2), "");
}

}  // namespace
}  // namespace underfoot::testing
