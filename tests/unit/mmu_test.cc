#include "mmu/mmu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mmu/pfn_cache.h"
#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using ::testing::IsEmpty;

using MmuTest = MmuRig;

TEST_F(MmuTest, ABeginTakesWhatOverlapsAndNothingElse) {
  for (uint64_t page = 0; page < 8; ++page) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  Invalidate(2, 3);
  for (uint64_t page = 0; page < 8; ++page) {
    EXPECT_EQ(LeafOf(page).has_value(), page < 2 || page >= 5) << page;
  }
}

// Half a page on either side is a page.
TEST_F(MmuTest, ABeginOfAFewBytesTakesTheirPages) {
  for (uint64_t page = 0; page < 4; ++page) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  const HvaRange bytes{host_.PageAt(2) - 1, host_.PageAt(2) + 1};
  { InvalidationScope scope(mmu_.notifier(), {bytes, InvalidationKind::kUnmap}); }
  EXPECT_TRUE(LeafOf(0).has_value() && LeafOf(3).has_value());
  EXPECT_FALSE(LeafOf(1).has_value() || LeafOf(2).has_value());
}

TEST_F(MmuTest, ABeginOfEverythingTakesEverything) {
  for (uint64_t page = 0; page < 4; ++page) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(9), 64, Access::kRead).ok());
  {
    InvalidationScope scope(mmu_.notifier(), {{{0}, {~uint64_t{0}}}, InvalidationKind::kUnmap});
    EXPECT_FALSE(cache.Check(reader_));
    EXPECT_THAT(LeafLines(mmu_.stage2()), IsEmpty());
    EXPECT_EQ(Fault(0), FaultOutcome::kBlocked);
  }
  cache.Deactivate();
}

TEST_F(MmuTest, AnUnmapFlushesOnceAndWhereNothingWasMappedNotAtAll) {
  Invalidate(0, kPages);
  EXPECT_EQ(mmu_.Stats().stage2.flushes, 0u);
  for (uint64_t page = 0; page < 8; ++page) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  Invalidate(0, kPages);
  EXPECT_EQ(mmu_.Stats().stage2.flushes, 1u);
}

TEST_F(MmuTest, ABeginOverTwoSlotsFlushesOnce) {
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {{0x8000}, {0x8004}}, .hva = host_.PageAt(4)}).ok());
  for (uint64_t page = 4; page < 8; ++page) {
    ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
    ASSERT_EQ(mmu_.faults().HandleFault(reader_, {0x8000 + page - 4}, Access::kRead).outcome,
              FaultOutcome::kMapped);
  }
  Invalidate(4, 4);  // both slots show these pages
  EXPECT_THAT(LeafLines(mmu_.stage2()), IsEmpty());
  EXPECT_EQ(mmu_.Stats().stage2.flushes, 1u);
}

TEST_F(MmuTest, AProtectKeepsReadersAndTakesWriters) {
  ASSERT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  Invalidate(5, 1, InvalidationKind::kProtect);
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_TRUE(LeafOf(5)->dirty());
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
}

TEST_F(MmuTest, AProtectInFlightRefusesReadersToo) {
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kProtect});
  EXPECT_EQ(Fault(5), FaultOutcome::kBlocked);
}

TEST_F(MmuTest, YoungCombinesStage2AndCaches) {
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, host_.PageAt(5), 64, Access::kRead).ok());
  EXPECT_TRUE(cache.Check(reader_));
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  EXPECT_FALSE(LeafOf(5)->young());  // asked although the cache had said yes
  EXPECT_FALSE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  cache.Deactivate();
}

TEST_F(MmuTest, ADeleteTakesTheLeavesOfItsSlotAndNoOther) {
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {{0x8000}, {0x8004}}, .hva = host_.PageAt(4)}).ok());
  ASSERT_EQ(Fault(4), FaultOutcome::kMapped);
  ASSERT_EQ(mmu_.faults().HandleFault(reader_, {0x8000}, Access::kRead).outcome,
            FaultOutcome::kMapped);
  ASSERT_TRUE(mmu_.DeleteMemslot(9).ok());
  EXPECT_TRUE(LeafOf(4).has_value());
  EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, 1u);
  EXPECT_EQ(mmu_.DeleteMemslot(9).code(), absl::StatusCode::kNotFound);
}

TEST_F(MmuTest, StatsCountEachOperation) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  ASSERT_TRUE(mmu_.CreateMemslot({.id = 9, .gfns = {{0x8000}, {0x8001}}, .hva = {0}}).ok());
  ASSERT_TRUE(mmu_.DeleteMemslot(9).ok());
  Invalidate(5);
  const MmuStats stats = mmu_.Stats();
  EXPECT_EQ(stats.memslots.count, 1u);
  EXPECT_EQ(stats.memslots.generation, 4u);  // two creations, two phases of a delete
  EXPECT_EQ(stats.memslots.updates, 3u);
  EXPECT_EQ(stats.stage2.maps, 1u);
  EXPECT_EQ(stats.stage2.unmaps, 1u);
  EXPECT_EQ(stats.stage2.leaves_4k, 0u);
  EXPECT_EQ(stats.stage2.tables, 1u);
  EXPECT_EQ(stats.notifier.begins, 1u);
  EXPECT_EQ(stats.notifier.in_flight, 0u);
  EXPECT_EQ(stats.rcu.retired, 3u);
}

TEST_F(MmuTest, DestructionReturnsWithNothingOutstanding) {
  for (int round = 0; round < 20; ++round) {
    Mmu mmu(host_);
    ASSERT_TRUE(mmu.CreateMemslot({.id = 0, .gfns = {{0}, {kPages}}, .hva = host_.PageAt(0)}).ok());
    Reader reader(mmu.readers());
    for (uint64_t page = 0; page < kPages; page += 7) {
      ASSERT_EQ(mmu.faults().FaultIn(reader, {page}, Access::kWrite).outcome,
                FaultInOutcome::kMapped);
    }
    InvalidationScope scope(mmu.notifier(), {host_.Pages(0, 9), InvalidationKind::kUnmap});
  }
}

}  // namespace
}  // namespace underfoot::testing
