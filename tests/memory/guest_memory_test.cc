#include "vmm/ram/guest_memory.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "tests/memory/memory_test.h"

namespace underfoot::testing {
namespace {

using abi::RangeKind;

TEST(PlanRamSlotsTest, RamOf32MiBIsCutLikeThis) {
  const auto slots = PlanRamSlots(uint64_t{32} << 20);
  ASSERT_TRUE(slots.ok()) << slots.status();
  const std::vector<std::tuple<uint32_t, uint64_t, uint64_t, std::optional<RangeKind>>> expected = {
      {0, 0x0000000, 0x1000000, std::nullopt},
      {1, 0x1000000, 0x0070000, RangeKind::kShared},
      {2, 0x1070000, 0x03e4000, RangeKind::kPrecious},
      {3, 0x1454000, 0x03e4000, RangeKind::kDiscardable},
      {4, 0x1838000, 0x03e4000, RangeKind::kPrecious},
      {5, 0x1c1c000, 0x03e4000, RangeKind::kDiscardable},
  };
  ASSERT_EQ(slots->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const RamSlot& slot = (*slots)[i];
    EXPECT_EQ(std::tuple(slot.id, slot.gpa.value, slot.bytes, slot.kind), expected[i]) << i;
  }
}

TEST(PlanRamSlotsTest, TheSlotsCoverRamOfAnySizeWithoutGapOrOverlap) {
  for (const uint64_t pages : {8192u, 8193u, 8195u, 65536u, 99999u}) {
    const auto slots = PlanRamSlots(pages * kPageSize);
    ASSERT_TRUE(slots.ok()) << slots.status();
    Gpa next{0};
    for (const RamSlot& slot : *slots) {
      EXPECT_EQ(slot.gpa, next);
      EXPECT_GT(slot.bytes, 0u);
      EXPECT_EQ(slot.bytes % kPageSize, 0u);
      next += slot.bytes;
    }
    EXPECT_EQ(next.value, pages * kPageSize);
  }
}

TEST(PlanRamSlotsTest, ALinuxGuestHasPreciousSlotsOnlyCutAtBlocks) {
  for (const uint64_t mib : {64u, 65u, 192u, 1000u}) {
    const auto slots = PlanRamSlots(mib << 20, HugePages::kOff, RamUse::kLinux);
    ASSERT_TRUE(slots.ok()) << slots.status();
    EXPECT_EQ(slots->size(), 5u);
    Gpa next{0};
    for (const RamSlot& slot : *slots) {
      EXPECT_EQ(slot.gpa, next);
      EXPECT_EQ(slot.gpa.value % kBlockBytes, 0u);
      EXPECT_EQ(slot.kind, abi::RangeKind::kPrecious);
      next += slot.bytes;
    }
    EXPECT_EQ(next.value, mib << 20);
  }
}

// No two slots share a block, so that each of them can be discarded, and mapped, in whole blocks.
TEST(PlanRamSlotsTest, WithHugePagesSlotsAreCutBetweenBlocks) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  for (const HugePages huge : {HugePages::kThp, HugePages::k2M}) {
    const auto slots = PlanRamSlots(34 * kMiB, huge);
    ASSERT_TRUE(slots.ok()) << slots.status();
    std::vector<uint64_t> mib;
    for (const RamSlot& slot : *slots) {
      EXPECT_EQ(slot.gpa.value % (2 * kMiB), 0u);
      mib.push_back(slot.bytes / kMiB);
    }
    EXPECT_EQ(mib, (std::vector<uint64_t>{16, 2, 4, 4, 4, 4}));
  }
}

TEST(PlanRamSlotsTest, WithPagesOf1GiBTheDiscardablePartsAreWholePages) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const auto slots = PlanRamSlots(5 * kGiB, HugePages::k1G);
  ASSERT_TRUE(slots.ok()) << slots.status();
  uint64_t end = 0;
  for (const RamSlot& slot : *slots) {
    EXPECT_EQ(slot.gpa.value, end);
    end += slot.bytes;
    if (slot.discardable()) {
      EXPECT_EQ(slot.gpa.value % kGiB, 0u);
      EXPECT_EQ(slot.bytes % kGiB, 0u);
      EXPECT_GT(slot.bytes, 0u);
    }
  }
  EXPECT_EQ(end, 5 * kGiB);
}

TEST(PlanRamSlotsTest, RamThatIsNoWholeNumberOfHugePagesIsRefusedWithTheRemedy) {
  const auto text = [](uint64_t bytes, HugePages huge) {
    return std::string(PlanRamSlots(bytes, huge).status().message());
  };
  EXPECT_NE(text(uint64_t{33} << 20, HugePages::k2M).find("multiple of 2M"), std::string::npos);
  EXPECT_NE(text(uint64_t{33} << 20, HugePages::kThp).find("--huge-pages off"), std::string::npos);
  EXPECT_NE(text(uint64_t{3} << 30, HugePages::k1G).find("at least 4G"), std::string::npos);
  EXPECT_NE(text((uint64_t{4} << 30) + (1 << 20), HugePages::k1G).find("multiple of 1G"),
            std::string::npos);
}

TEST(PlanRamSlotsTest, RamThatCannotBeCutIsRefusedWithItsSize) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{16} << 20, (uint64_t{32} << 20) + 1}) {
    const auto slots = PlanRamSlots(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(slots.status()));
    EXPECT_NE(slots.status().message().find(std::to_string(bytes)), std::string::npos);
  }
}

using GuestMemoryTest = MemoryTest;

TEST_P(GuestMemoryTest, AGpaLiesAtItsOffsetAndBeyondRamNowhere) {
  const GuestMemory& memory = *side().memory;
  EXPECT_EQ(memory.HvaOf({0}), memory.hvas().begin);
  EXPECT_EQ(memory.HvaOf({0x1040123}), memory.hvas().begin + 0x1040123);
  EXPECT_EQ(memory.HvaOf({memory.bytes() - 1}), memory.hvas().end - 1);
  EXPECT_EQ(memory.HvaOf({memory.bytes()}), std::nullopt);
  EXPECT_EQ(memory.HvaOf({~uint64_t{0}}), std::nullopt);
}

TEST_P(GuestMemoryTest, EachSlotLiesWhereItsGpaIs) {
  const GuestMemory& memory = *side().memory;
  for (const RamSlot& slot : memory.slots()) {
    EXPECT_EQ(slot.hva, *memory.HvaOf(slot.gpa));
  }
}

TEST_P(GuestMemoryTest, TheGuestGetsEverySlotButTheSystemArea) {
  const std::vector<abi::DataRange> ranges = side().memory->DataRanges();
  ASSERT_EQ(ranges.size(), 5u);
  EXPECT_EQ(ranges[0].gpa, abi::kSystemAreaBytes);
  EXPECT_EQ(ranges[0].kind, RangeKind::kShared);
  EXPECT_EQ(ranges[4].gpa + ranges[4].bytes, MemorySide::kBytes);
  EXPECT_EQ(ranges[4].kind, RangeKind::kDiscardable);
}

TEST_P(GuestMemoryTest, OfAMemfdTheFileOffsetIsTheGpa) {
  EXPECT_EQ(side().memory->fd() >= 0, memfd());
  if (!memfd()) return;
  side().StoreInFile(3, 0x1234);
  ASSERT_EQ(side().uffd.Continue(side().PageAt(3)), UffdOutcome::kDone);
  EXPECT_EQ(side().Load(3), 0x1234u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(GuestMemoryTest);

}  // namespace
}  // namespace underfoot::testing
