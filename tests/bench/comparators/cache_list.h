// Pfn caches as the kernel lists them: one list in no order, a reader-writer lock in each cache,
// and an invalidation that walks the whole list. For each cache of the list it takes the lock for
// writing, as Linux did until 2024; or looks first with the lock held for reading, as Linux does
// now; or looks first without a lock. The fourth search needs no list: an index ordered by hva,
// under one lock, names the caches that overlap.
//
// The range of a cache never changes here, so a look without a lock needs no re-check. A real one
// does, and its loads cost the same.
//
// Thread safety: Read from any thread against Invalidate and Validate from any.
// After: virt/kvm/pfncache.c in Linux.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_

#include <algorithm>
#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "mmu/base/types.h"
#include "tests/bench/comparators/protected_word.h"

namespace underfoot::bench {

class CacheList {
 public:
  enum class Search { kWriteLocked, kReadLocked, kLockless, kIndexed };

  // `caches` of a page each, every second page from `first` on.
  CacheList(Hva first, uint64_t caches) {
    for (uint64_t i = 0; i < caches; ++i) {
      list_.emplace_back().range = PageRangeOf(first + 2 * i * kPageSize);
      by_hva_.push_back(&list_.back());
    }
  }

  std::optional<uint64_t> ReadFirst() {
    Cache& cache = list_.front();
    cache.lock.lock_shared();
    const std::optional<uint64_t> value = cache.word.DataIfValid(0);
    cache.lock.unlock_shared();
    return value;
  }
  void ValidateFirst() { Set(list_.front(), true); }

  void Invalidate(HvaRange range, Search search) {
    if (search == Search::kIndexed) return InvalidateIndexed(range);
    list_lock_.lock();
    for (Cache& cache : list_) {
      if (!MayOverlap(cache, range, search)) continue;
      cache.lock.lock();
      if (cache.range.Overlaps(range)) cache.word.SetValid(false);
      cache.lock.unlock();
    }
    list_lock_.unlock();
  }

 private:
  struct Cache {
    alignas(64) SpinRwLock lock;
    HvaRange range;
    Word word;
  };

  // The precheck.
  static bool MayOverlap(Cache& cache, HvaRange range, Search search) {
    if (search == Search::kWriteLocked) return true;
    if (search == Search::kLockless) return cache.word.valid() && cache.range.Overlaps(range);
    cache.lock.lock_shared();
    const bool overlaps = cache.word.valid() && cache.range.Overlaps(range);
    cache.lock.unlock_shared();
    return overlaps;
  }

  void InvalidateIndexed(HvaRange range) {
    list_lock_.lock_shared();
    for (auto next = std::partition_point(
             by_hva_.begin(), by_hva_.end(),
             [range](const Cache* cache) { return cache->range.end <= range.begin; });
         next != by_hva_.end() && (*next)->range.Overlaps(range); ++next) {
      Set(**next, false);
    }
    list_lock_.unlock_shared();
  }

  static void Set(Cache& cache, bool valid) {
    cache.lock.lock();
    cache.word.SetValid(valid);
    cache.lock.unlock();
  }

  SpinRwLock list_lock_;
  std::list<Cache> list_;
  std::vector<Cache*> by_hva_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_
