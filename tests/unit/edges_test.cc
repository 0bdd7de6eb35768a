// Ranges at the ends of what there is: frames beyond the last, host memory above 47 bits, parts of
// pages.

#include <gtest/gtest.h>

#include <limits>

#include "mmu/pfn_cache.h"
#include "mmu/range_fault.h"
#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kLastByte = std::numeric_limits<uint64_t>::max();

class EdgesTest : public MmuRig {
 protected:
  // The frames whose indexes in each table are those of the slot's.
  static constexpr GfnRange kBeyond{kGuestFrames.end + kFirst.value,
                                    kGuestFrames.end + kFirst.value + kPages};
};

TEST_F(EdgesTest, FramesBeyondTheLastBelongToNoSlot) {
  ASSERT_EQ(Fault(1, Access::kWrite), FaultOutcome::kMapped);
  Stage2& stage2 = mmu_.stage2();
  MmuGather gather;
  stage2.Unmap(kBeyond, gather);
  stage2.WriteProtect(kBeyond, gather);
  EXPECT_FALSE(stage2.Finish(gather));
  stage2.TearDown(kBeyond);
  EXPECT_FALSE(stage2.TestClearYoung(kBeyond, true));
  stage2.CollectDirty({kBeyond.begin, {kLastByte}}, {});
  TablePool pool(1);
  EXPECT_EQ(stage2.Split(kBeyond, 0, pool), kBeyond.end);
  EXPECT_TRUE(stage2.WalkPath(kBeyond.begin + 1).entries[kLevels - 1].empty());
  ASSERT_TRUE(LeafOf(1).has_value());
  EXPECT_TRUE(LeafOf(1)->writable() && LeafOf(1)->young() && LeafOf(1)->dirty());
}

TEST_F(EdgesTest, ARangeThatReachesBeyondTheLastFrameGoesAsFarAsThereAreFrames) {
  ASSERT_EQ(Fault(1), FaultOutcome::kMapped);
  MmuGather gather;
  mmu_.stage2().Unmap({GfnAt(1), {kLastByte}}, gather);
  EXPECT_TRUE(mmu_.stage2().Finish(gather));
  EXPECT_FALSE(LeafOf(1).has_value());
}

TEST_F(EdgesTest, AFaultOfTheVeryLastFramesFaultsInNoOthers) {
  const RangeFaultResult result =
      mmu_.range_faults().FaultIn(reader_, {{kLastByte - 1}, {kLastByte}}, Access::kRead);
  EXPECT_EQ(result.outcome, FaultInOutcome::kNoMemslot);
  EXPECT_FALSE(LeafOf(0).has_value());
}

TEST_F(EdgesTest, ACacheAboveUserMemoryIsRefused) {
  PfnCache cache(mmu_, "cache");
  for (const uint64_t hva : {kLastByte & ~kPageMask, uint64_t{1} << 50, kUserMemory.end.value,
                             kUserMemory.end.value - 32}) {
    EXPECT_EQ(cache.Activate(reader_, Hva{hva}, 64, Access::kRead).code(),
              absl::StatusCode::kInvalidArgument)
        << hva;
    EXPECT_FALSE(cache.Check(reader_)) << hva;
  }
  cache.Deactivate();
}

TEST_F(EdgesTest, AgeingOfAPartOfAPageAgesThePage) {
  ASSERT_EQ(Fault(1), FaultOutcome::kMapped);
  const Hva inside = host_.PageAt(1) + 100;
  EXPECT_TRUE(mmu_.notifier().TestClearYoung({inside, inside + 100}, false));
}

TEST_F(EdgesTest, ARangeThatEndsBeforeItBeginsHasNoPages) {
  EXPECT_TRUE(RoundOutToPages({{3 * kPageSize}, {kPageSize}}).empty());
  ASSERT_EQ(Fault(1), FaultOutcome::kMapped);
  InvalidationScope bracket(mmu_.notifier(), {{host_.PageAt(2), host_.PageAt(0)}});
  EXPECT_FALSE(bracket.found());
}

}  // namespace
}  // namespace underfoot::testing
