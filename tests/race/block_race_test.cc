// Claims of whole blocks against invalidations of one of their pages, and splits against installers
// that relax the block.

#include <gtest/gtest.h>

#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "tests/race/staging.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kFirst{8 * k2M};
constexpr GfnRange kWholeBlock{kFirst, kFirst + k2M};

class BlockRaceTest : public ::testing::Test {
 protected:
  BlockRaceTest() {
    const absl::Status created =
        mmu_.CreateMemslot({.id = 1, .gfns = kWholeBlock, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
  }
  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  }

  void FaultInBlock() {
    Reader reader(mmu_.readers());
    EXPECT_EQ(mmu_.range_faults().FaultIn(reader, kWholeBlock, Access::kRead).outcome,
              FaultInOutcome::kMapped);
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
//   claims; page-ins find one block
//                                   Begin steals the claim; the page moves; End
//   publication fails; it starts again and publishes a table
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
//   claims; page-ins; fills a table
//   publication: finds its claim
//                                   Begin steals the claim; the page moves; End
//   the compare-exchange fails
TEST_F(BlockRaceTest, ATableLosesToATheftInItsLastStep) {
  MovePage(3);  // the host's pages are no block now, so the handler makes a table
  Gate gate("publish-table");
  Task installer("installer", [&] { FaultInBlock(); });
  ASSERT_TRUE(StopsAt(gate, installer));
  MovePage(9);
  gate.Open();
  installer.Join();
  ExpectTheHostsFrames();
}

//   installer of the block          invalidation of page 9
//                                   Begin finds no entry
//   claims; finds the bracket in flight; gives the claim back and waits
//                                   the page moves; End
//   starts again
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

//   fault on page 5                 invalidation of page 9
//   claims the block; page-in of 512 pages
//                                   Begin steals the claim; the page moves; End
//   publication fails: the caller brings in page 5 alone
TEST_F(BlockRaceTest, ABracketOfAnotherPageStealsTheClaimOfABlockFault) {
  Gate gate("block-fault-after-page-in");
  std::optional<BlockFaultResult> result = BlockFaultResult{};
  Task fault("fault", [&] {
    Reader reader(mmu_.readers());
    result = mmu_.range_faults().HandleFault(reader, kFirst + 5, 1, Access::kWrite, nullptr);
  });
  ASSERT_TRUE(StopsAt(gate, fault));
  MovePage(9);
  gate.Open();
  fault.Join();
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(mmu_.Stats().stage2.tables, 1u);
  FaultInBlock();
  ExpectTheHostsFrames();
}

//   fault on page 5                 invalidation of page 9
//                                   Begin finds no entry
//   claims the block; finds the bracket in flight; gives the claim back
//   does not wait
//                                   the page moves; End
TEST_F(BlockRaceTest, ABlockFaultDoesNotWaitForTheBracketOfAnotherPage) {
  Reader reader(mmu_.readers());
  Gate gate("block-fault-claimed");
  std::optional<BlockFaultResult> result = BlockFaultResult{};
  Task fault("fault", [&] {
    Reader own(mmu_.readers());
    result = mmu_.range_faults().HandleFault(own, kFirst + 5, 1, Access::kWrite, nullptr);
  });
  ASSERT_TRUE(StopsAt(gate, fault));
  // The claim comes before the search for brackets, so this Begin steals it.
  BracketToken bracket = mmu_.notifier().Begin({host_.Pages(9), InvalidationKind::kUnmap});
  gate.Open();
  fault.Join();  // while the bracket is in flight
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(host_.page_ins(), 0u);
  EXPECT_EQ(mmu_.faults().HandleFault(reader, kFirst + 5, Access::kWrite).outcome,
            FaultOutcome::kMapped);
  host_.Move(host_.Pages(9));
  mmu_.notifier().End(bracket);
  FaultInBlock();
  ExpectTheHostsFrames();
}

//   collapse                        reader of page 9
//                                   is in a section
//   Begin waits
//                                   leaves the section
//   publishes one leaf
TEST_F(BlockRaceTest, ACollapseWaitsForTheReadersOfItsBlock) {
  FaultInBlock();
  Reader reader(mmu_.readers());
  TranslatedPage page = mmu_.Translate(reader, GpaOf(kFirst + 9), Access::kRead);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  Task collapse("collapse", [&] {
    Reader own(mmu_.readers());
    EXPECT_EQ(mmu_.range_faults().Collapse(own, mmu_.notifier(), kFirst, 1, Access::kRead).outcome,
              FaultInOutcome::kMapped);
  });
  ASSERT_TRUE(StopsAt(gate, collapse));
  gate.Open();
  EXPECT_FALSE(collapse.done());
  page = {};
  collapse.Join();
  ExpectTheHostsFrames();
}

//   installer that relaxes          split
//   puts its tag into the read-only block
//                                   publishes the pages, without a tag
//   publication: the leaf that it finds does not have its tag
TEST_F(BlockRaceTest, ASplitTakesTheBlockFromARelaxingOwner) {
  Stage2 stage2;
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kRead)));
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  TablePool pool(1);
  EXPECT_EQ(stage2.Split(kWholeBlock, 0, pool), kWholeBlock.end);
  EXPECT_FALSE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kWrite)));
  EXPECT_EQ(WhatIsWrongWith(stage2), "");
}

//   split                           writer that sets D, as hardware does
//   has read the block, which is clean
//                                   writes: the block is dirty
//   the compare-exchange fails; reads the entry again
TEST_F(BlockRaceTest, ASplitLosesNoDirtyBit) {
  Stage2 stage2;
  ASSERT_EQ(stage2.TryClaim(kFirst, 1, Access::kWrite, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kWrite)));
  Gate gate("split-publish");
  Task split("split", [&] {
    TablePool pool(2);
    EXPECT_EQ(stage2.Split(kWholeBlock, 0, pool), kWholeBlock.end);
  });
  ASSERT_TRUE(StopsAt(gate, split));
  {
    rcu::ReadScope rcu;
    EXPECT_TRUE(stage2.Use(kFirst + 5, Access::kWrite).has_value());
  }
  gate.Open();
  split.Join();
  rcu::ReadScope rcu;
  EXPECT_TRUE(stage2.Lookup(kFirst + 5)->pte.dirty());
}

//   unmap                           installer
//   has emptied the last entry and
//   has not yet dropped its reference
//                                   claims another entry of the table
//   drops the reference; the table stays
TEST_F(BlockRaceTest, ATableThatIsFilledAgainBeforeItsReferenceFallsStays) {
  Stage2 stage2;
  ASSERT_EQ(stage2.TryClaim(kFirst, 0, Access::kRead, kMe).outcome, ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2.Publish(kFirst, kMe, Pte::Leaf({0x200}, Access::kRead)));
  Gate gate("unmap-before-unref");
  Task unmap("unmap", [&] {
    MmuGather gather;
    stage2.Unmap({kFirst, kFirst + 1}, gather);
    stage2.Finish(gather);
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
