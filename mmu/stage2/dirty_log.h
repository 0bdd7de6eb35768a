// The dirty log of a memslot: the pages that were written since the last collection.
//
// At every moment a write is recorded in the D bit of a leaf or in the log, or is counted as being
// moved from the leaf to the log.
//
//   Translate, FaultIn ----> D of the leaf --+-- collect: mark the log, then clear D ----> log
//                                            +-- unmap: drop the leaf, then mark the log --^
//   CacheSection::MarkDirty ---------------------------------------------------------------+
//
// An unmap marks the log after it has removed the leaf. If it marked before, a collection could
// take the mark while the leaf is still present and dirty; a write that came then would find D set,
// make no mark, and be lost when the leaf is removed.
//
// A collection first collects the leaves, then waits for removals that are under way, and then
// takes the log. After that it waits for the readers of the slot, so each write section whose mark
// was taken is over when the caller copies the pages. The next write to such a page is recorded
// again: Translate and FaultIn find D clear and set it, and a cache marks in each section that
// writes. mmu/LOCKING.md ("Dirty pages") has the full argument.
//
// Thread safety: any thread that keeps the slot alive calls Mark: inside the rcu::ReadScope in
// which it found the slot, or inside a read section on the memory of the slot. The whole of a
// removal lies in one ReadScope. One thread at a time calls TakeInto or Take (Mmu::update_mutex_);
// the holder of that mutex may also Mark.
// Units: pages of 4 KiB, counted from the first page of the slot.
// Invariants: I8 (a page that was written is reported by this collection or by the next one).
// After: mark_page_dirty_in_slot, KVM_GET_DIRTY_LOG and kvm_get_dirty_log_protect in Linux.

#ifndef UNDERFOOT_MMU_STAGE2_DIRTY_LOG_H_
#define UNDERFOOT_MMU_STAGE2_DIRTY_LOG_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/base/types.h"
#include "mmu/stage2/dirty_bitmap.h"

namespace underfoot {

class DirtyLog : public rcu::DeferHead {
 public:
  explicit DirtyLog(uint64_t pages)
      : pages_(pages),
        words_in_use_(DirtyBitmap::WordsFor(pages)),
        words_(std::make_unique<std::atomic<uint64_t>[]>(words_in_use_)) {}

  // `first` counts from the first page of the slot.
  void Mark(uint64_t first, uint64_t pages) {
    const uint64_t end = first + pages;
    UNDERFOOT_CHECK(first <= end && end <= pages_, "a mark outside of the slot", first, pages);
    for (uint64_t page = first; page < end;) {
      const uint64_t bit = page % DirtyBitmap::kPagesPerWord;
      const uint64_t length = std::min(DirtyBitmap::kPagesPerWord - bit, end - page);
      const uint64_t mask = ~uint64_t{0} >> (DirtyBitmap::kPagesPerWord - length) << bit;
      std::atomic<uint64_t>& word = words_[page / DirtyBitmap::kPagesPerWord];
      // The word is tested first: most writes go to a page that was written a moment ago, and
      // without a write the cache line stays shared. Pairs with: Take, after the caller's own
      // announcement or its look at the leaf. Without it: Mark finds the bit of an earlier write
      // although Take has just taken it, and the scan of Take for readers has missed this section.
      if ((word.load(kStoreLoad) & mask) != mask) word.fetch_or(mask, kStoreLoad);
      page += length;
    }
  }

  // Adds the marked pages to `taken` and clears the log. `taken` has WordsFor(pages) words, or none
  // if the marks are to be discarded. Needs no memory.
  void TakeInto(std::span<uint64_t> taken) {
    UNDERFOOT_CHECK(taken.empty() || taken.size() == words_in_use_, "a bitmap of another slot",
                    taken.size(), words_in_use_);
    for (size_t i = 0; i < words_in_use_; ++i) {
      if (words_[i].load(kStoreLoad) == 0) continue;
      // kStoreLoad, because the scan for readers follows.
      const uint64_t word = words_[i].exchange(0, kStoreLoad);
      if (!taken.empty()) taken[i] |= word;
    }
  }

  // Returns the marked pages and clears the log.
  DirtyBitmap Take() {
    std::vector<uint64_t> taken(words_in_use_);
    TakeInto(taken);
    return DirtyBitmap(std::move(taken));
  }

  // Counts one removal of a dirty leaf, from before the leaf is removed until its mark is in the
  // log.
  class Removal {
   public:
    // Relaxed: the exchange of the leaf follows it, so a thread that finds the leaf gone also finds
    // the count.
    explicit Removal(DirtyLog& log) : log_(log) { log_.removals_.fetch_add(1, kRelaxed); }
    // Pairs with: RemovalsUnderWay. Without it: a collection finds no removal counted and does not
    // yet see the mark.
    ~Removal() { log_.removals_.fetch_sub(1, kRelease); }
    Removal(const Removal&) = delete;
    Removal& operator=(const Removal&) = delete;

   private:
    DirtyLog& log_;
  };

  // If this returns true, a leaf that the caller has found removed may not be marked until a grace
  // period has passed.
  bool RemovalsUnderWay() const { return removals_.load(kAcquire) != 0; }

 private:
  const uint64_t pages_;
  const size_t words_in_use_;
  const std::unique_ptr<std::atomic<uint64_t>[]> words_;
  std::atomic<uint64_t> removals_{0};
};

// The log of a slot for a walk of stage-2, which marks by gfn. Without a log it marks nothing.
struct DirtySink {
  DirtyLog* log = nullptr;
  Gfn first;  // the first gfn of the slot

  void Mark(GfnRange range) const {
    if (log != nullptr) log->Mark(range.begin - first, range.size());
  }

  // Calls `remove()`, which removes a dirty leaf, and then marks `range` if it succeeded. Returns
  // the result of `remove()`.
  template <class Remove>
  bool MarkRemoved(GfnRange range, const Remove& remove) const {
    if (log == nullptr) return remove();
    const DirtyLog::Removal under_way(*log);
    if (!remove()) return false;
    UNDERFOOT_SYNC_POINT("unmap-half-way");
    Mark(range);
    return true;
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_DIRTY_LOG_H_
