// The union of the dirty logs of guest RAM: what each kind of writer leaves in it, and that no page
// is lost while memslots come and go or a log cannot be taken. KVM is a fake.

#include "vmm/ram/ram_log.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "mmu/base/ordering.h"
#include "tests/memory/memory_test.h"
#include "vmm/boot/guest_report.h"
#include "vmm/devices/ring_peer.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

class RamLogTest : public MemoryTest {
 protected:
  using Gfns = std::set<uint64_t>;

  void SetUp() override {
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.backing = GetParam(), .log_writes = true});
    if (absl::IsPermissionDenied(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
    StartMonitor();
    for (const RamSlot& slot : side_->memory->slots()) {
      ASSERT_TRUE(ChangeInKvm(slot.id, RamLog::KvmSlot::kThere).ok());
    }
  }

  RamLog& log() { return *side().memory->log(); }
  // Of the slot that the tests' pages lie in.
  static constexpr uint32_t kSlot = 2;

  // The fake: the pages of each slot that vCPUs have written.
  absl::StatusOr<std::vector<uint64_t>> TakeKvmLog(uint32_t slot, uint64_t pages) {
    if (slot == fails_at_) return absl::UnavailableError("KVM's log");
    std::vector<uint64_t> words(DirtyBitmap::WordsFor(pages));
    for (const uint64_t page : std::exchange(kvm_[slot], {})) {
      words[page / DirtyBitmap::kPagesPerWord] |= uint64_t{1} << page % DirtyBitmap::kPagesPerWord;
    }
    return words;
  }
  absl::Status ChangeInKvm(uint32_t slot, RamLog::KvmSlot afterwards) {
    return log().ChangeInKvm(
        slot, [this](uint32_t id, uint64_t pages) { return TakeKvmLog(id, pages); }, afterwards,
        [this] {
          ++changes_;
          return absl::OkStatus();
        });
  }
  absl::StatusOr<RamLog::Collection> TryCollect() {
    return log().Collect(mmu(),
                         [this](uint32_t id, uint64_t pages) { return TakeKvmLog(id, pages); });
  }
  Gfns Collect() {
    const absl::StatusOr<RamLog::Collection> collected = TryCollect();
    EXPECT_TRUE(collected.ok()) << collected.status();
    Gfns gfns;
    collected->pages.ForEach([&](uint64_t gfn) { gfns.insert(gfn); });
    return gfns;
  }
  void Write(uint64_t i, uint64_t word = 1) {
    Reader reader(mmu().readers());
    const absl::Status written =
        side().access.Write(reader, side().GpaAt(i), std::as_bytes(std::span(&word, 1)));
    ASSERT_TRUE(written.ok()) << written;
  }
  uint64_t GfnAt(uint64_t i) { return side().GfnAt(i).value; }
  // Pages 0 to 15 are there, and no log has any page.
  void Warm() {
    for (uint64_t i = 0; i < 16; ++i) Write(i);
    Collect();
    ASSERT_EQ(Collect(), Gfns());
  }
  void CreateSlot() {
    const RamSlot& slot = side().memory->slots()[kSlot];
    ASSERT_TRUE(mmu()
                    .CreateMemslot({.id = kSlot,
                                    .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)},
                                    .hva = slot.hva,
                                    .flags = {.log_dirty = true}})
                    .ok());
  }

  std::array<std::vector<uint64_t>, 6> kvm_;
  uint32_t fails_at_ = ~0u;
  int changes_ = 0;
};

TEST_P(RamLogTest, AWriteThroughATranslationIsCollectedOnce) {
  Warm();
  Write(3);
  EXPECT_EQ(Collect(), Gfns{GfnAt(3)});
  EXPECT_EQ(Collect(), Gfns());
}

TEST_P(RamLogTest, AWriteOfAVcpuIsCollectedOnce) {
  Warm();
  kvm_[kSlot] = {3, 70};
  kvm_[0] = {5};
  EXPECT_EQ(Collect(), (Gfns{5, GfnAt(3), GfnAt(70)}));
  EXPECT_EQ(Collect(), Gfns());
}

TEST_P(RamLogTest, AWriteWhileTheMemslotIsAwayIsCollected) {
  Warm();
  ASSERT_TRUE(log().DeleteMemslot(kSlot, mmu()).ok());
  Write(3);
  EXPECT_EQ(Collect(), Gfns{GfnAt(3)});
  EXPECT_EQ(Collect(), Gfns());
  CreateSlot();
}

TEST_P(RamLogTest, ADiscardedPageIsCollectedWhenItReadsAsZeroes) {
  Warm();
  ASSERT_TRUE(side().hooks.Discard(side().Pages(3)).ok());
  EXPECT_EQ(side().Load(3), 0u);
  EXPECT_TRUE(Collect().contains(GfnAt(3)));
}

TEST_P(RamLogTest, AWordThatTheMachineWritesForTheGuestIsCollected) {
  Warm();
  const GuestReports reports(side().memory->slots()[0].hva, 1, &log());
  for (int round = 0; round < 2; ++round) {
    round == 0 ? reports.SetEpoch(2) : reports.RequestStop();
    EXPECT_TRUE(Collect().contains(abi::kBootInfoGpa / kPageSize));
  }
}

// The first collection has the page because the cache was activated for writing.
TEST_P(RamLogTest, EachWriteOfTheRingPeerIsCollected) {
  const RamSlot& shared = side().memory->slots()[1];
  RingPeer peer(mmu(), shared.gpa, 1);
  ASSERT_TRUE(peer.Start().ok());
  ASSERT_TRUE(WaitUntil([&] { return peer.produced() == abi::kRingRecords; }));
  // Its section may go on for a moment, and marks the page at its end.
  ASSERT_TRUE(WaitUntil([&] { return Collect().empty(); }));
  auto& page = *static_cast<abi::SharedPage*>(PointerOf(shared.hva));
  std::atomic_ref(page.to_guest.tail).store(16, kRelease);
  ASSERT_TRUE(WaitUntil([&] { return peer.produced() == abi::kRingRecords + 16; }));
  peer.Stop();
  EXPECT_TRUE(Collect().contains(GfnOf(shared.gpa).value));
}

TEST_P(RamLogTest, PagesInKvmsLogOfASlotThatGoesAreCollected) {
  Warm();
  kvm_[kSlot] = {3};
  ASSERT_TRUE(ChangeInKvm(kSlot, RamLog::KvmSlot::kAway).ok());
  kvm_[kSlot] = {4};  // of a slot that is away: no collection asks KVM for it
  EXPECT_EQ(Collect(), Gfns{GfnAt(3)});
  EXPECT_EQ(Collect(), Gfns());
}

TEST_P(RamLogTest, ASlotWhoseLogCannotBeReadStaysInKvm) {
  Warm();
  kvm_[kSlot] = {3};
  fails_at_ = kSlot;
  changes_ = 0;
  EXPECT_TRUE(absl::IsUnavailable(ChangeInKvm(kSlot, RamLog::KvmSlot::kAway)));
  EXPECT_EQ(changes_, 0);
  fails_at_ = ~0u;
  EXPECT_EQ(Collect(), Gfns{GfnAt(3)});
}

TEST_P(RamLogTest, PagesOfAMemslotThatIsDeletedAreCollected) {
  Warm();
  Write(3);
  Write(4);
  ASSERT_TRUE(log().DeleteMemslot(kSlot, mmu()).ok());
  EXPECT_EQ(Collect(), (Gfns{GfnAt(3), GfnAt(4)}));
  CreateSlot();
  EXPECT_EQ(Collect(), Gfns());
}

TEST_P(RamLogTest, PagesOfAMemslotThatMovesAreCollectedAsWhatTheyAre) {
  Warm();
  Write(3);
  ASSERT_TRUE(mmu().MoveMemslot(kSlot, Gfn{0x20000}).ok());
  EXPECT_EQ(Collect(), Gfns{GfnAt(3)});
}

TEST_P(RamLogTest, AFailedCollectionLosesNothing) {
  Warm();
  kvm_[0] = {5};
  kvm_[4] = {6};
  Write(3);
  fails_at_ = 4;
  EXPECT_TRUE(absl::IsUnavailable(TryCollect().status()));
  fails_at_ = ~0u;
  const uint64_t in_slot_4 = GfnOf(side().memory->slots()[4].gpa).value + 6;
  EXPECT_EQ(Collect(), (Gfns{5, GfnAt(3), in_slot_4}));
  EXPECT_EQ(Collect(), Gfns());
}

TEST_P(RamLogTest, PagesThatAreGivenBackAreCollectedAgain) {
  Warm();
  std::vector<uint64_t> words(DirtyBitmap::WordsFor(side().memory->bytes() >> kPageShift));
  const auto add = [&](uint64_t gfn) { words[gfn / 64] |= uint64_t{1} << gfn % 64; };
  add(5);
  add(GfnAt(3));
  log().GiveBack(DirtyBitmap(words), mmu());
  Write(4);
  EXPECT_EQ(Collect(), (Gfns{5, GfnAt(3), GfnAt(4)}));
  EXPECT_EQ(Collect(), Gfns());
  ASSERT_TRUE(log().DeleteMemslot(kSlot, mmu()).ok());
  log().GiveBack(DirtyBitmap(words), mmu());
  EXPECT_EQ(Collect(), (Gfns{5, GfnAt(3)}));
}

TEST_P(RamLogTest, WhatLiesOutsideOfRamIsNotMarked) {
  Warm();
  const HvaRange ram = side().memory->hvas();
  log().Mark({ram.end, ram.end + kPageSize});
  log().Mark({ram.begin - kPageSize, ram.begin});
  EXPECT_EQ(Collect(), Gfns());
  log().Mark({ram.end - 1, ram.end + kPageSize});
  EXPECT_EQ(Collect(), Gfns{(ram.size() >> kPageShift) - 1});
}

UNDERFOOT_FOR_BOTH_BACKINGS(RamLogTest);

}  // namespace
}  // namespace underfoot::testing
