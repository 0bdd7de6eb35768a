// No write is lost: a copy of guest memory that is made of nothing but the pages that collections
// report equals the memory in the end, as a live migration needs it.
//
// Writers go through leaves and through a pfn cache; meanwhile pages are unmapped and protected,
// the slot moves, and the log is turned off and on again, after which everything is copied. Every
// few collections only the writers stand still for one more: then the copy is
// complete, or a write is lost.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "tests/stress/squad.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPages = 150;  // the last word of the log is a part of one
constexpr uint32_t kSlot = 1;
constexpr std::array<Gfn, 2> kPlaces = {Gfn{0x1f0}, Gfn{0x8000}};
constexpr uint64_t kCached = 77;

class DirtyLogStressTest : public ::testing::Test {
 protected:
  DirtyLogStressTest() : copy_(kPages) {
    EXPECT_TRUE(mmu_.CreateMemslot({.id = kSlot,
                                    .gfns = {kPlaces[0], kPlaces[0] + kPages},
                                    .hva = host_.PageAt(0),
                                    .flags = {.log_dirty = true}})
                    .ok());
  }

  std::atomic<uint64_t>& Word(uint64_t page) const {
    return *std::bit_cast<std::atomic<uint64_t>*>(PointerOf(host_.PageAt(page)));
  }
  // Relaxed, as a guest's memory is: the library orders the write and the copy, or does not.
  void Write(std::byte* data) {
    auto& word = *std::bit_cast<std::atomic<uint64_t>*>(data);
    word.fetch_add(1, kRelaxed);
    writes_.fetch_add(1, kRelaxed);
  }
  void WriteThroughALeaf(Reader& reader, Random& random) {
    const Gpa gpa = GpaOf(random.Pick(kPlaces) + random.Below(kPages));
    if (const TranslatedPage page = mmu_.Translate(reader, gpa, Access::kWrite)) {
      return Write(page.data());
    }
    static_cast<void>(mmu_.faults().HandleFault(reader, GfnOf(gpa), Access::kWrite));
  }
  // Marks in front of the write or behind it: both are in time.
  void WriteThroughTheCache(PfnCache& cache, Reader& reader, Random& random) {
    if (const CacheSection section = cache.Check(reader)) {
      const bool first = random.Chance(1, 2);
      if (first) section.MarkDirty();
      Write(section.data());
      if (!first) section.MarkDirty();
      cache_writes_.fetch_add(1, kRelaxed);
      return;
    }
    static_cast<void>(cache.Refresh(reader));
  }
  void Copy(uint64_t page) { copy_[page] = Word(page).load(kRelaxed); }
  void CopyWhatIsDirty() {
    const absl::StatusOr<DirtyBitmap> dirty = mmu_.CollectDirty(kSlot);
    ASSERT_TRUE(dirty.ok()) << dirty.status();
    dirty->ForEach([this](uint64_t page) { Copy(page); });
    collected_.fetch_add(dirty->count(), kRelaxed);
  }
  void CompareTheCopy() {
    absl::MutexLock lock(&writers_);
    CopyWhatIsDirty();
    uint64_t accounted = 0;
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(copy_[page], Word(page).load(kRelaxed)) << page;
      accounted += copy_[page];
    }
    ASSERT_EQ(accounted, writes_.load());
    comparisons_.fetch_add(1, kRelaxed);
  }
  void RestartTheLog() {
    for (const bool on : {false, true}) {
      ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.log_dirty = on}).ok());
    }
    for (uint64_t page = 0; page < kPages; ++page) Copy(page);
    restarts_.fetch_add(1, kRelaxed);
  }
  void Invalidate(Random& random) {
    const uint64_t pages = 1 + random.Below(20);
    InvalidationScope scope(mmu_.notifier(), {host_.Pages(random.Below(kPages - pages), pages),
                                              random.Chance(1, 3) ? InvalidationKind::kProtect
                                                                  : InvalidationKind::kUnmap});
    invalidations_.fetch_add(1, kRelaxed);
  }

  Squad squad_;
  absl::Mutex writers_;  // shared: to write, exclusive: no thread writes
  FakeHost host_{kPages};
  Mmu mmu_{host_};
  std::vector<uint64_t> copy_;  // the collector's
  std::atomic<uint64_t> writes_{0};
  std::atomic<uint64_t> cache_writes_{0};
  std::atomic<uint64_t> collected_{0};
  std::atomic<uint64_t> restarts_{0};
  std::atomic<uint64_t> comparisons_{0};
  std::atomic<uint64_t> invalidations_{0};
};

TEST_F(DirtyLogStressTest, TheCopyOfAMigrationHasEveryWrite) {
  Reader main_reader(mmu_.readers());
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(
      cache.Activate(main_reader, GpaOf(kPlaces[0] + kCached), 2 * kPageSize, Access::kWrite).ok());
  for (int writer = 0; writer < 2; ++writer) {
    squad_.Add([&](Random& random) {
      Reader reader(mmu_.readers());
      while (!squad_.Stopped()) {
        absl::ReaderMutexLock lock(&writers_);
        WriteThroughALeaf(reader, random);
        WriteThroughTheCache(cache, reader, random);
      }
    });
  }
  squad_.Add([&](Random& random) {
    while (!squad_.Stopped()) Invalidate(random);
  });
  std::atomic<uint64_t> moves{0};
  squad_.Add([&](Random& random) {
    while (!squad_.Stopped()) {
      ASSERT_TRUE(mmu_.MoveMemslot(kSlot, random.Pick(kPlaces)).ok());
      moves.fetch_add(1, kRelaxed);
    }
  });
  squad_.Add([&](Random& random) {
    while (!squad_.Stopped()) {
      const uint64_t kind = random.Below(100);
      kind == 0 ? RestartTheLog() : kind < 20 ? CompareTheCopy() : CopyWhatIsDirty();
      if (HasFatalFailure()) squad_.Stop();
    }
  });
  const auto enough = [&] {
    return writes_ > 2000 && cache_writes_ > 500 && collected_ > 500 && restarts_ > 2 &&
           comparisons_ > 50 && invalidations_ > 200 && moves > 50;
  };
  EXPECT_TRUE(squad_.Run(enough)) << writes_ << " writes, " << cache_writes_ << " by the cache, "
                                  << collected_ << " collected, " << moves << " moves";
  CompareTheCopy();
  cache.Deactivate();
  EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
}

}  // namespace
}  // namespace underfoot::testing
