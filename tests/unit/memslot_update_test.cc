// Moving a memslot and changing its flags: what is found where, what may be written, and how a
// refusal reads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "mmu/pfn_cache.h"
#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MemslotUpdateTest : public MmuRig {
 protected:
  static constexpr Gfn kElsewhere{0x4000};
  static constexpr uint64_t kTop = uint64_t{1} << kGfnBits;

  FaultOutcome FaultAt(Gfn gfn, Access access = Access::kRead) {
    return mmu_.faults().HandleFault(reader_, gfn, access).outcome;
  }
  void SetReadOnly(bool on) { ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.read_only = on}).ok()); }
};

TEST_F(MemslotUpdateTest, AMovedSlotIsFoundThereAndNoLongerHere) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kElsewhere).ok());
  EXPECT_THAT(LeafLines(mmu_.stage2()), IsEmpty());
  EXPECT_EQ(Fault(5), FaultOutcome::kNoMemslot);
  ASSERT_EQ(FaultAt(kElsewhere + 5), FaultOutcome::kMapped);
  const TranslatedPage page = mmu_.Translate(reader_, GpaOf(kElsewhere + 5), Access::kRead);
  EXPECT_EQ(page.hva(), host_.PageAt(5));
  EXPECT_EQ(mmu_.Stats().memslots.count, 1u);
}

TEST_F(MemslotUpdateTest, ASlotMayMoveOverItself) {
  for (const uint64_t first : {GfnAt(3).value, GfnAt(3).value - kPages / 2, kFirst.value}) {
    ASSERT_TRUE(mmu_.MoveMemslot(kSlot, {first}).ok()) << first;
    EXPECT_EQ(FaultAt({first}), FaultOutcome::kMapped);
    EXPECT_EQ(FaultAt({first + kPages - 1}), FaultOutcome::kMapped);
    EXPECT_EQ(FaultAt({first + kPages}), FaultOutcome::kNoMemslot);
  }
}

TEST_F(MemslotUpdateTest, AMoveToItsPlaceChangesNothing) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  const uint64_t generation = mmu_.Stats().memslots.generation;
  EXPECT_TRUE(mmu_.MoveMemslot(kSlot, kFirst).ok());
  EXPECT_EQ(mmu_.Stats().memslots.generation, generation);
  EXPECT_TRUE(LeafOf(5).has_value());
}

TEST_F(MemslotUpdateTest, ACacheFollowsNoMove) {
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(5), 64, Access::kRead).ok());
  ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kFirst + 1).ok());
  EXPECT_FALSE(cache.Check(reader_));
  ASSERT_EQ(cache.Refresh(reader_), RefreshOutcome::kValid);
  EXPECT_EQ(cache.Describe().hva, host_.PageAt(4));
  cache.Deactivate();
}

TEST_F(MemslotUpdateTest, ARefusedMoveGivesTheReasonAndChangesNothing) {
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {{0x8000}, {0x8004}}, .hva = host_.PageAt(4)}).ok());
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  const uint64_t generation = mmu_.Stats().memslots.generation;
  struct RefusedMove {
    uint32_t id;
    uint64_t first;
    absl::StatusCode code;
    std::string says;
  };
  const RefusedMove refusals[] = {
      {7, 0x4000, absl::StatusCode::kNotFound, "memslot 7 does not exist"},
      {kSlot, kTop - kPages + 1, absl::StatusCode::kInvalidArgument, "below gfn 2^36"},
      {kSlot, ~uint64_t{0}, absl::StatusCode::kInvalidArgument, "below gfn 2^36"},
      {kSlot, 0x8003, absl::StatusCode::kAlreadyExists, "overlaps memslot 9"},
      {kSlot, 0x8000 - kPages + 1, absl::StatusCode::kAlreadyExists, "overlaps memslot 9"},
      {9, kFirst.value - 3, absl::StatusCode::kAlreadyExists, "overlaps memslot 3"},
  };
  for (const RefusedMove& refusal : refusals) {
    const absl::Status status = mmu_.MoveMemslot(refusal.id, {refusal.first});
    EXPECT_EQ(status.code(), refusal.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.says));
  }
  EXPECT_EQ(mmu_.Stats().memslots.generation, generation);
  EXPECT_TRUE(LeafOf(5).has_value());
  EXPECT_TRUE(mmu_.MoveMemslot(kSlot, {kTop - kPages}).ok());  // the very last place
}

TEST_F(MemslotUpdateTest, ReadOnlyTakesTheWritePermissionAndKeepsTheTranslation) {
  ASSERT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  SetReadOnly(true);
  ASSERT_TRUE(LeafOf(5).has_value());
  EXPECT_FALSE(LeafOf(5)->writable());
  EXPECT_TRUE(LeafOf(5)->dirty());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kReadOnly);
  EXPECT_EQ(Fault(6), FaultOutcome::kMapped);
  EXPECT_FALSE(LeafOf(6)->writable());
}

TEST_F(MemslotUpdateTest, ReadOnlyOffLetsTheNextFaultWrite) {
  SetReadOnly(true);
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  SetReadOnly(false);
  EXPECT_EQ(Fault(5, Access::kWrite), FaultOutcome::kMapped);
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_EQ(mmu_.Stats().stage2.flushes, 0u);  // the leaf was relaxed, not broken (I6)
}

TEST_F(MemslotUpdateTest, ReadOnlyDropsTheGpaKeyedCachesThatWriteAndNoOther) {
  PfnCache writes(mmu_, "writes");
  PfnCache reads(mmu_, "reads");
  PfnCache by_hva(mmu_, "by hva");
  ASSERT_TRUE(writes.Activate(reader_, GpaAt(5), 64, Access::kWrite).ok());
  ASSERT_TRUE(reads.Activate(reader_, GpaAt(5), 64, Access::kRead).ok());
  ASSERT_TRUE(by_hva.Activate(reader_, host_.PageAt(5), 64, Access::kWrite).ok());
  SetReadOnly(true);
  EXPECT_FALSE(writes.Check(reader_));
  EXPECT_TRUE(reads.Check(reader_));
  EXPECT_TRUE(by_hva.Check(reader_));  // no memslot made it
  EXPECT_EQ(writes.Refresh(reader_), RefreshOutcome::kNoMemslot);
  SetReadOnly(false);
  EXPECT_EQ(writes.Refresh(reader_), RefreshOutcome::kValid);
  writes.Deactivate();
  reads.Deactivate();
  by_hva.Deactivate();
}

TEST_F(MemslotUpdateTest, FlagsThatStayChangeNothing) {
  SetReadOnly(true);
  const uint64_t generation = mmu_.Stats().memslots.generation;
  SetReadOnly(true);
  EXPECT_EQ(mmu_.Stats().memslots.generation, generation);
  const absl::Status status = mmu_.SetMemslotFlags(9, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memslot 9 does not exist"));
}

TEST_F(MemslotUpdateTest, AMovedSlotKeepsItsFlags) {
  SetReadOnly(true);
  ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kElsewhere).ok());
  EXPECT_EQ(FaultAt(kElsewhere, Access::kWrite), FaultOutcome::kReadOnly);
}

}  // namespace
}  // namespace underfoot::testing
