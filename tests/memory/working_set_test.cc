// What a scan finds out of pages that are touched in every way there is, without a guest.

#include "vmm/ageing/working_set.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <optional>
#include <set>

#include "mmu/pfn_cache.h"
#include "tests/memory/fake_records.h"
#include "tests/memory/memory_test.h"

namespace underfoot::testing {
namespace {

class WorkingSetTest : public MemoryTest {
 protected:
  using Pages = std::set<uint64_t>;
  static constexpr uint64_t kPages = 16;

  void SetUp() override {
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.backing = GetParam(),
                            .uffd = {.async_write_protect = !memfd()},
                            .touch_sink = [this](Hva page) { set_->Touched(page); }});
    if (absl::IsPermissionDenied(side.status()) || absl::IsUnimplemented(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
    set_.emplace(*side_->memory, mmu().notifier(), side_->pagemap, absl::Milliseconds(1));
    StartMonitor();
  }
  void TearDown() override {
    if (side_ != nullptr) side_->monitor.Stop();
    set_.reset();
    MemoryTest::TearDown();
  }

  // Pages 0 to kPages - 1 are there, written, and old.
  void Warm() {
    for (uint64_t i = 0; i < kPages; ++i) side().Store(i, 1);
    Scan();
    Scan();
    ASSERT_EQ(Touched(), Pages());
  }
  Pages Touched() {
    Pages touched;
    for (uint64_t i = 0; i < kPages; ++i) {
      if (set_->TouchedLately(side().PageAt(i))) touched.insert(i);
    }
    return touched;
  }

  // The handler has finished with the last fault: after it has woken this thread, it looks at the
  // page again and publishes its leaf.
  void Scan() {
    ASSERT_TRUE(WaitUntil([&] {
      const UffdStats stats = side().monitor.Stats();
      return stats.fault_us.count >= stats.missing + stats.wp + stats.minor;
    }));
    set_->Scan();
  }

  // By the machine, through stage-2.
  void Read(uint64_t i) {
    Reader reader(mmu().readers());
    TranslatedPage page = mmu().Translate(reader, side().GpaAt(i), Access::kRead);
    while (!page) {
      ASSERT_EQ(mmu().faults().FaultIn(reader, side().GfnAt(i), Access::kRead).outcome,
                FaultInOutcome::kMapped);
      page = mmu().Translate(reader, side().GpaAt(i), Access::kRead);
    }
  }

  std::optional<WorkingSet> set_;
};

TEST_P(WorkingSetTest, AnAccessIsSeenByTheNextScanAndByNoLaterOne) {
  Warm();
  side().Store(3, 5);
  Scan();
  EXPECT_EQ(Touched(), Pages({3}));
  Scan();
  EXPECT_EQ(Touched(), Pages());
  EXPECT_EQ(side().Load(3), 5u);
  Scan();
  EXPECT_EQ(Touched(), memfd() ? Pages({3}) : Pages()) << "reads of private pages leave no trace";
}

TEST_P(WorkingSetTest, APageThatComesInIsTouchedThoughItGoesBeforeTheScan) {
  Warm();
  ASSERT_TRUE(side().hooks.Discard(side().Pages(4)).ok());
  EXPECT_EQ(side().Load(4), 0u);
  ASSERT_TRUE(side().hooks.Discard(side().Pages(4)).ok());
  Scan();
  EXPECT_EQ(Touched(), Pages({4}));
}

class PrivateWorkingSetTest : public WorkingSetTest {};

INSTANTIATE_TEST_SUITE_P(Backing, PrivateWorkingSetTest, ::testing::Values(Backing::kAnon),
                         BackingOf);

// The machine's own reads are seen where the host's answer knows nothing of them.
TEST_P(PrivateWorkingSetTest, AnAccessThroughAPfnCacheCountsAsOneByTheGuest) {
  Reader reader(mmu().readers());
  PfnCache cache(mmu(), "test");
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(5), 64, Access::kRead).ok());
  Warm();
  Scan();
  Scan();
  EXPECT_EQ(Touched(), Pages());
  {
    const CacheSection section = cache.Check(reader);
    ASSERT_TRUE(section);
  }
  Scan();
  EXPECT_EQ(Touched(), Pages({5}));
  Scan();
  EXPECT_EQ(Touched(), Pages());
  cache.Deactivate();
}

TEST_P(WorkingSetTest, AnAccessThroughStage2CountsAsOneByTheGuest) {
  Warm();
  Read(6);
  Scan();
  EXPECT_EQ(Touched(), Pages({6}));
}

// A scan takes the right to write away: no thread may have kept a translation that grants it.
TEST_P(WorkingSetTest, NoWritableTranslationOutlivesAScan) {
  Warm();
  FaultIn(7);
  ASSERT_TRUE(side().LeafOf(7)->writable());
  Scan();
  const std::optional<Pte> leaf = side().LeafOf(7);
  EXPECT_TRUE(!leaf.has_value() || !leaf->writable());
  FaultIn(7);
  side().Store(7, 9);
  Scan();
  EXPECT_EQ(Touched(), Pages({7}));
}

TEST_P(WorkingSetTest, WhatTheKernelMadeOldWasTouchedBefore) {
  Warm();
  FakeRecords records;
  KernelNotifier kernel(mmu(), side().own_changes, side().memory->hvas(), records.Opener(),
                        {.young_sink = [this](Hva page) { set_->Touched(page); }});
  ASSERT_TRUE(kernel.Start().ok());
  ASSERT_TRUE(kernel.WaitUntilOpen().ok());
  Read(8);
  Scan();
  Read(8);
  ASSERT_TRUE(mmu().notifier().TestClearYoung(side().Pages(8), false));
  records.Add(side().Pages(7, 3), kForeignTid, MonotonicNs(), KernelRecord::Kind::kTestAge);
  ASSERT_TRUE(kernel.Drain());
  EXPECT_TRUE(mmu().notifier().TestClearYoung(side().Pages(8), false)) << "it only asked";
  records.Add(side().Pages(7, 3), kForeignTid, MonotonicNs(), KernelRecord::Kind::kAge);
  ASSERT_TRUE(kernel.Drain());
  EXPECT_FALSE(mmu().notifier().TestClearYoung(side().Pages(8), false));
  Scan();
  EXPECT_EQ(Touched(), Pages({8}));
  kernel.Stop();
}

TEST_P(WorkingSetTest, TheAnswerIsBySlotAndLeavesTheSystemAreaOut) {
  Warm();
  side().Store(1, 2);
  side().Store(2, 2);
  Scan();
  const WorkingSetInfo info = set_->Info(std::nullopt);
  EXPECT_EQ(info.sees_reads, memfd());
  EXPECT_EQ(info.scans, 1u);
  ASSERT_EQ(info.slots.size(), side().memory->slots().size());
  for (const WorkingSetSlot& slot : info.slots) {
    EXPECT_EQ(slot.touched, slot.id == 0   ? std::nullopt
                            : slot.id == 2 ? std::optional<uint64_t>(2)
                                           : std::optional<uint64_t>(0))
        << slot.id;
  }
  EXPECT_EQ(set_->Info(absl::Hours(1)).scans, 3u);
  EXPECT_EQ(set_->Info(absl::Hours(1)).slots[2].touched, kPages);
  const WorkingSetStats stats = set_->Stats();
  EXPECT_TRUE(stats.enabled);
  EXPECT_EQ(stats.scans, 3u);
  EXPECT_EQ(stats.touched, 2u);
  EXPECT_EQ(stats.pages, (MemorySide::kBytes - abi::kSystemAreaBytes) / kPageSize);
}

TEST_P(WorkingSetTest, AThreadScansByItself) {
  ASSERT_TRUE(set_->Start().ok());
  EXPECT_TRUE(WaitUntil([&] { return set_->Stats().scans > 3; }));
  set_->Stop();
}

UNDERFOOT_FOR_BOTH_BACKINGS(WorkingSetTest);

}  // namespace
}  // namespace underfoot::testing
