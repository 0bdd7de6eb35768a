// Ranges faulted in at once: leaves as large as they can be, and what stands in their way.

#include "mmu/range_fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kRangePages = 3 * k2M;
constexpr Gfn kBegin{4 * k2M};

class RangeFaultTest : public ::testing::Test {
 protected:
  RangeFaultTest() {
    const absl::Status created = mmu_.CreateMemslot(
        {.id = 1, .gfns = {kBegin, kBegin + kRangePages}, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
  }
  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), ""); }

  static GfnRange Pages(uint64_t first, uint64_t count) {
    return {kBegin + first, kBegin + first + count};
  }
  RangeFaultResult FaultIn(GfnRange gfns, Access access = Access::kRead) {
    return mmu_.range_faults().FaultIn(reader_, gfns, access);
  }
  std::optional<Stage2::Leaf> LeafOf(uint64_t page) {
    rcu::ReadScope rcu;
    return mmu_.stage2().Lookup(kBegin + page);
  }
  void Move(uint64_t page, uint64_t pages = 1) {
    InvalidationScope bracket(mmu_.notifier(),
                              {host_.Pages(page, pages), InvalidationKind::kUnmap});
    host_.Move(host_.Pages(page, pages));
  }
  // Each page of the slot that has a leaf has the right one.
  void ExpectTheHostsFrames() {
    rcu::ReadScope rcu;
    for (uint64_t page = 0; page < kRangePages; ++page) {
      const auto leaf = mmu_.stage2().Lookup(kBegin + page);
      if (!leaf.has_value()) continue;
      const uint64_t in_leaf = (kBegin + page) - EntryRange(kBegin + page, leaf->level).begin;
      ASSERT_EQ(leaf->pte.pfn() + in_leaf, host_.PfnOf(host_.PageAt(page))) << page;
    }
  }

  FakeHost host_{kRangePages};
  Mmu mmu_{host_};
  Reader reader_{mmu_.readers()};
};

TEST_F(RangeFaultTest, ConsecutiveFramesBecomeOneLeaf) {
  const RangeFaultResult result = FaultIn(Pages(0, kRangePages), Access::kWrite);
  EXPECT_EQ(result.outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(result.reached, kBegin + kRangePages);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 3u);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, 0u);
  EXPECT_TRUE(LeafOf(5)->pte.dirty());
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, ScatteredFramesBecomeATable) {
  Move(k2M + 7);
  EXPECT_EQ(FaultIn(Pages(0, kRangePages)).outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 2u);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
  EXPECT_FALSE(LeafOf(k2M)->pte.dirty());
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, TheEndsOfARangeArePages) {
  EXPECT_EQ(FaultIn(Pages(k2M - 3, k2M + 5)).outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, 5u);
  EXPECT_FALSE(LeafOf(k2M - 4).has_value());
  EXPECT_FALSE(LeafOf(2 * k2M + 2).has_value());
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, PresentPagesStayAndTheOthersComeIn) {
  ASSERT_EQ(mmu_.faults().FaultIn(reader_, kBegin + 9, Access::kWrite).outcome,
            FaultInOutcome::kMapped);
  const uint64_t page_ins = host_.page_ins();
  EXPECT_EQ(FaultIn(Pages(0, k2M)).outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(host_.page_ins() - page_ins, k2M - 1);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
  EXPECT_TRUE(LeafOf(9)->pte.dirty());
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, ABlockThatDoesNotGrantAWriteIsRelaxedPageByPage) {
  host_.GrantOnlyWhatIsAskedFor();
  ASSERT_EQ(FaultIn(Pages(0, k2M)).outcome, FaultInOutcome::kMapped);
  ASSERT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
  EXPECT_EQ(FaultIn(Pages(0, k2M), Access::kWrite).outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M);
  EXPECT_TRUE(LeafOf(k2M - 1)->pte.writable());
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, ThePageSourceMayNameABlock) {
  host_.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
    return PageInResult{PageInOutcome::kPresent,
                        {0x80000 + (page - host_.PageAt(0)) / kPageSize},
                        Access::kWrite,
                        1};
  });
  EXPECT_EQ(FaultIn(Pages(0, k2M)).outcome, FaultInOutcome::kMapped);
  EXPECT_EQ(host_.page_ins(), 1u);
  EXPECT_THAT(LeafLines(mmu_.stage2()), ElementsAre("0x800+512 -> 0x80000 wy-"));
}

// The page lies in a block of the host's; that does not begin where a block of the guest's does.
TEST_F(RangeFaultTest, ABlockThatLiesAcrossOursIsMappedPageByPage) {
  FakeHost host(2 * k2M);
  Mmu mmu(host);
  Reader reader(mmu.readers());
  ASSERT_TRUE(
      mmu.CreateMemslot({.id = 1, .gfns = {kBegin, kBegin + k2M}, .hva = host.PageAt(1)}).ok());
  host.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
    const uint64_t index = (page - host.PageAt(0)) / kPageSize;
    // Two blocks, far apart.
    return PageInResult{
        PageInOutcome::kPresent, {(index / k2M + 1) * 0x80000 + index % k2M}, Access::kWrite, 1};
  });
  EXPECT_EQ(mmu.range_faults().FaultIn(reader, {kBegin, kBegin + k2M}, Access::kRead).outcome,
            FaultInOutcome::kMapped);
  EXPECT_EQ(mmu.Stats().stage2.leaves_2m, 0u);
  rcu::ReadScope rcu;
  EXPECT_EQ(mmu.stage2().Lookup(kBegin)->pte.pfn(), Pfn{0x80001});
  EXPECT_EQ(mmu.stage2().Lookup(kBegin + (k2M - 1))->pte.pfn(), Pfn{0x100000});
}

TEST_F(RangeFaultTest, AWriteToAPresentBlockMakesItDirty) {
  ASSERT_EQ(FaultIn(Pages(0, k2M)).outcome, FaultInOutcome::kMapped);
  ASSERT_FALSE(LeafOf(0)->pte.dirty());
  EXPECT_EQ(FaultIn(Pages(0, k2M), Access::kWrite).outcome, FaultInOutcome::kMapped);
  EXPECT_TRUE(LeafOf(0)->pte.dirty());
}

TEST_F(RangeFaultTest, APageWithAPendingRemovalGetsNoLeafAndDelaysNoOther) {
  host_.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
    if (page != host_.PageAt(3)) return std::nullopt;
    return PageInResult{PageInOutcome::kRemovalPending, {}, Access::kRead, 0};
  });
  EXPECT_EQ(FaultIn(Pages(0, k2M)).outcome, FaultInOutcome::kMapped);
  EXPECT_FALSE(LeafOf(3).has_value());
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, k2M - 1);
}

TEST_F(RangeFaultTest, ItStopsWhereAPageCannotCome) {
  host_.SetAnswer([&](Hva page, Access) -> std::optional<PageInResult> {
    if (page != host_.PageAt(3)) return std::nullopt;
    return PageInResult{};
  });
  const RangeFaultResult result = FaultIn(Pages(0, kRangePages));
  EXPECT_EQ(result.outcome, FaultInOutcome::kFailed);
  EXPECT_EQ(result.reached, kBegin + 3);
}

TEST_F(RangeFaultTest, ItStopsAtTheEndOfTheMemslot) {
  const RangeFaultResult result = FaultIn(Pages(2 * k2M, 2 * k2M));
  EXPECT_EQ(result.outcome, FaultInOutcome::kNoMemslot);
  EXPECT_EQ(result.reached, kBegin + kRangePages);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
}

TEST_F(RangeFaultTest, ACollapseMakesOneLeafOfMany) {
  for (uint64_t page = 0; page < k2M; ++page) {
    ASSERT_EQ(mmu_.faults().FaultIn(reader_, kBegin + page, Access::kRead).outcome,
              FaultInOutcome::kMapped);
  }
  const uint64_t tables = mmu_.Stats().stage2.tables;
  EXPECT_EQ(
      mmu_.range_faults().Collapse(reader_, mmu_.notifier(), kBegin + 77, 1, Access::kRead).outcome,
      FaultInOutcome::kMapped);
  EXPECT_EQ(mmu_.Stats().stage2.leaves_2m, 1u);
  EXPECT_EQ(mmu_.Stats().stage2.tables, tables - 1);
  rcu::Barrier();  // the old table is freed, and its leaves count no longer
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, 0u);
  ExpectTheHostsFrames();
}

TEST_F(RangeFaultTest, ACollapseBeyondItsSlotIsRefused) {
  EXPECT_EQ(
      mmu_.range_faults().Collapse(reader_, mmu_.notifier(), kBegin, 2, Access::kRead).outcome,
      FaultInOutcome::kNoMemslot);
}

}  // namespace
}  // namespace underfoot::testing
