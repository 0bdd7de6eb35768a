// The dirty log of a memslot: which of its pages were written since they were last collected.
//
// A write is known in one of two places, and never in none: the D bit of a leaf, or the log.
//
//   Translate, FaultIn ----> D of the leaf --+-- collect: mark the log, then clear D -----> log
//                                            +-- unmap:   mark the log, then drop the leaf ^
//   CacheSection::MarkDirty ---------------------------------------------------------------+
//
// Collecting asks the leaves first and takes the log second, so that a bit on its way is met. Then
// it waits for the readers of the slot: a write section that was marked before is over when the
// collected pages are copied. The next write is noticed again, since D is clear (Translate and
// FaultIn set it again) and a cache marks in every section that writes.
//
// Thread safety: Mark: any thread that keeps the slot alive: under the rcu::ReadScope it found the
// slot in, or in a read section on the slot's memory. Take: one thread at a time
// (Mmu::update_mutex_).
// Invariants: I8 (a page that was written is reported, now or next time).
// After: mark_page_dirty_in_slot and KVM_GET_DIRTY_LOG in Linux.

#ifndef UNDERFOOT_MMU_DIRTY_LOG_H_
#define UNDERFOOT_MMU_DIRTY_LOG_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "mmu/dirty_bitmap.h"
#include "mmu/ordering.h"
#include "mmu/rcu.h"
#include "mmu/types.h"

namespace underfoot {

class DirtyLog : public rcu::DeferHead {
 public:
  explicit DirtyLog(uint64_t pages)
      : words_in_use_(DirtyBitmap::WordsFor(pages)),
        words_(std::make_unique<std::atomic<uint64_t>[]>(words_in_use_)) {}

  // Pages count from the first of the slot.
  void Mark(uint64_t first, uint64_t pages) {
    const uint64_t end = first + pages;
    for (uint64_t page = first; page < end;) {
      const uint64_t bit = page % DirtyBitmap::kPagesPerWord;
      const uint64_t length = std::min(DirtyBitmap::kPagesPerWord - bit, end - page);
      const uint64_t mask = ~uint64_t{0} >> (DirtyBitmap::kPagesPerWord - length) << bit;
      std::atomic<uint64_t>& word = words_[page / DirtyBitmap::kPagesPerWord];
      // Tested first: most writes go where one was just now, and the line stays shared.
      // Pairs with: Take, after the caller's own announcement or look at the leaf. Without it: the
      // bit of an earlier write is found, Take has taken it, and its scan has missed this section.
      if ((word.load(kStoreLoad) & mask) != mask) word.fetch_or(mask, kStoreLoad);
      page += length;
    }
  }

  // What was marked, and clears it.
  DirtyBitmap Take() {
    std::vector<uint64_t> taken(words_in_use_);
    for (size_t i = 0; i < words_in_use_; ++i) {
      // kStoreLoad: the scan for readers comes after it.
      if (words_[i].load(kStoreLoad) != 0) taken[i] = words_[i].exchange(0, kStoreLoad);
    }
    return DirtyBitmap(std::move(taken));
  }

 private:
  const size_t words_in_use_;
  const std::unique_ptr<std::atomic<uint64_t>[]> words_;
};

// A log as a walk of stage-2 sees it, by gfn. Empty where the slot logs nothing.
struct DirtySink {
  DirtyLog* log = nullptr;
  Gfn first;  // of the slot

  void Mark(GfnRange range) const {
    if (log != nullptr) log->Mark(range.begin - first, range.size());
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_DIRTY_LOG_H_
