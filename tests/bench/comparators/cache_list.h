// Pfn caches as the kernel lists them: one list in no order, a reader-writer lock in each cache,
// and an invalidation that walks the whole list. Either it takes each cache's lock for writing, as
// Linux did until 2024, or looks first with the lock held for reading, as Linux does now.
//
// Thread safety: Read from any thread against Invalidate from any.
// After: virt/kvm/pfncache.c in Linux.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_

#include <cstdint>
#include <list>
#include <optional>

#include "mmu/types.h"
#include "tests/bench/comparators/protected_word.h"

namespace underfoot::bench {

class CacheList {
 public:
  enum class Precheck { kNone, kReadLocked };

  // `caches` of a page each, every second page from `first` on.
  CacheList(Hva first, uint64_t caches) {
    for (uint64_t i = 0; i < caches; ++i) {
      list_.emplace_back().range = PageRangeOf(first + 2 * i * kPageSize);
    }
  }

  std::optional<uint64_t> ReadFirst() {
    Cache& cache = list_.front();
    cache.lock.lock_shared();
    const std::optional<uint64_t> value = cache.word.DataIfValid(0);
    cache.lock.unlock_shared();
    return value;
  }

  void Invalidate(HvaRange range, Precheck precheck) {
    list_lock_.lock();
    for (Cache& cache : list_) {
      if (precheck == Precheck::kReadLocked) {
        cache.lock.lock_shared();
        const bool overlaps = cache.range.Overlaps(range);
        cache.lock.unlock_shared();
        if (!overlaps) continue;
      }
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

  SpinRwLock list_lock_;
  std::list<Cache> list_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_CACHE_LIST_H_
