// The pfn caches of a VM, listed by hva: an invalidation visits those that overlap and no other.
//
// An invalidation of few pages first looks without a lock whether a cache is listed at a page that
// shares a bucket with one of them. If so the precheck looks for an overlap with the lock held for
// reading, so that refreshes of unrelated caches are not held up. Both may say yes too often (only
// the exclusive step, which looks again, decides) and never wrongly no: a refresh lists its cache
// before it asks whether a range is in flight (I10).
//
// Thread safety: any thread.
// After: gfn_to_pfn_cache_invalidate_start in Linux, whose list has no order and is walked whole.

#ifndef UNDERFOOT_MMU_PFN_CACHE_INDEX_H_
#define UNDERFOOT_MMU_PFN_CACHE_INDEX_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/synchronization/mutex.h"
#include "mmu/notifier.h"
#include "mmu/stats.h"
#include "mmu/types.h"

namespace underfoot {

class PfnCache;

class PfnCacheIndex final : public Subscriber {
 public:
  PfnCacheIndex() = default;
  ~PfnCacheIndex() override;
  PfnCacheIndex(const PfnCacheIndex&) = delete;
  PfnCacheIndex& operator=(const PfnCacheIndex&) = delete;

  // Lists the cache at `range` and makes its state `pending`, in one critical section (P4: F4).
  void ListPending(PfnCache& cache, HvaRange range, uint64_t pending) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unlist(PfnCache& cache) ABSL_LOCKS_EXCLUDED(mutex_);

  bool Invalidate(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mutex_);
  bool TestClearYoung(HvaRange range, bool clear) override ABSL_LOCKS_EXCLUDED(mutex_);

  // A memslot goes (kUnmap) or changes what may be written (kProtect): caches keyed by gpa lose
  // their translation, caches keyed by hva keep theirs.
  void InvalidateGpaKeyed(const Invalidation& invalidation) ABSL_LOCKS_EXCLUDED(mutex_);

  // `visit(const PfnCache&)` for each listed cache, with the lock held for reading.
  template <class Visitor>
  void ForEach(const Visitor& visit) const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::ReaderMutexLock lock(&mutex_);
    for (const auto& [begin, cache] : by_hva_) visit(*cache);
  }

  PfnCacheStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  Counter& refreshes() { return refreshes_; }
  Counter& refresh_retries() { return refresh_retries_; }

 private:
  using Key = std::pair<Hva, PfnCache*>;

  template <class Visitor>
  void ForEachOverlapLocked(HvaRange range, const Visitor& visit) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool PrecheckOverlap(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  bool MayBeListed(HvaRange range) const;
  void RelistLocked(PfnCache& cache, HvaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountPages(HvaRange range, uint32_t by);

  // Guards: by_hva_ and each listed cache's place in it; shared: to look, exclusive: to list and to
  // invalidate. Order: after PfnCache::refresh_mutex_, innermost. Held across tree operations;
  // never across a wait for readers or brackets, nor a page-in.
  mutable absl::Mutex mutex_;
  absl::btree_set<Key> by_hva_ ABSL_GUARDED_BY(mutex_);
  // How many pages of listed caches fall into each bucket. Changed under mutex_, read without.
  // Pairs with: InFlightRanges::Add, as the words in flight do with claims. Without it: the refresh
  // misses the range and the invalidation the cache.
  static constexpr uint64_t kBuckets = 4096;
  static constexpr uint64_t kMaxPagesLookedUp = 64;
  std::array<std::atomic<uint32_t>, kBuckets> listed_pages_{};
  Counter refreshes_;
  Counter refresh_retries_;
  Counter invalidations_;
  ShardedCounter prechecks_;
  Counter precheck_overlaps_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PFN_CACHE_INDEX_H_
