// The index of the pfn caches of a VM, ordered by hva. An invalidation visits the caches that
// overlap its range and no others.
//
// An invalidation of a few pages first makes a check without a lock: does a bucket of one of its
// pages count a listed cache? If so, the precheck searches for an overlap with the lock held
// shared, so that refreshes of unrelated caches are not held up. Both may answer yes too often;
// then the exclusive step, which searches again, decides. Neither ever answers no wrongly, because
// a refresh lists its cache before it searches for a range in flight (I10; P4.2, P4.3).
//
// Thread safety: any thread.
// Errors: ListPending throws std::bad_alloc without memory, and nothing has changed. Unlist,
// Invalidate and TestClearYoung need no memory.
// Invariants: I1, I10.
// After: gfn_to_pfn_cache_invalidate_start in Linux, whose list is not ordered and is walked as a
// whole.

#ifndef UNDERFOOT_MMU_CACHES_PFN_CACHE_INDEX_H_
#define UNDERFOOT_MMU_CACHES_PFN_CACHE_INDEX_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/invalidation.h"
#include "mmu/base/ordering.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"

namespace underfoot {

class PfnCache;

// What the index knows of a pfn cache: PfnCache derives from it.
class IndexedCache {
 public:
  static constexpr uint64_t kMaxPages = 16;

 protected:
  explicit IndexedCache(PfnCache& cache) : cache_(cache) {}
  ~IndexedCache() = default;

  bool gpa_keyed() const { return gpa_keyed_.load(kRelaxed); }

  static constexpr uint64_t kValid = 1;
  static constexpr uint64_t kPending = 2;

  // The range as packed by ReaderKey, with kValid or kPending in the bits of the nonce. 0 is
  // INVALID.
  std::atomic<uint64_t> state_{0};
  std::atomic<bool> young_{false};
  // Copies for the index and for Describe. Relaxed: they are written under refresh_mutex_ before
  // the cache is listed.
  std::atomic<bool> gpa_keyed_{true};
  std::atomic<bool> writable_{false};
  Counter invalidations_;

 private:
  friend class PfnCacheIndex;

  // Makes the cache invalid. False: it was invalid, or the invalidation does not concern it.
  bool Drop(InvalidationKind kind);
  bool TestClearYoung(bool clear);

  PfnCache& cache_;
  HvaRange listed_;  // guarded by PfnCacheIndex::mutex_
};

class PfnCacheIndex final : public Subscriber {
 public:
  PfnCacheIndex() = default;
  ~PfnCacheIndex() override;
  PfnCacheIndex(const PfnCacheIndex&) = delete;
  PfnCacheIndex& operator=(const PfnCacheIndex&) = delete;

  // Lists the cache at `range` and sets its state to `pending`, in one critical section (P4.2).
  void ListPending(IndexedCache& cache, HvaRange range, uint64_t pending)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Unlist(IndexedCache& cache) ABSL_LOCKS_EXCLUDED(mutex_);

  bool Invalidate(const Invalidation& invalidation) override ABSL_LOCKS_EXCLUDED(mutex_);
  bool TestClearYoung(HvaRange range, bool clear) override ABSL_LOCKS_EXCLUDED(mutex_);

  // Called when a memslot is removed (kUnmap) or its write permission changes (kProtect). Caches
  // keyed by gpa lose their translation. Caches keyed by hva keep theirs.
  void InvalidateGpaKeyed(const Invalidation& invalidation) ABSL_LOCKS_EXCLUDED(mutex_);

  // Calls `visit(const PfnCache&)` for each listed cache, with the lock held shared.
  template <class Visitor>
  void ForEach(const Visitor& visit) const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::ReaderMutexLock lock(&mutex_);
    for (const auto& [begin, indexed] : by_hva_) visit(std::as_const(indexed->cache_));
  }

  PfnCacheStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  Counter& refreshes() { return refreshes_; }
  Counter& refresh_retries() { return refresh_retries_; }

 private:
  using Key = std::pair<Hva, IndexedCache*>;

  template <class Visitor>
  void ForEachOverlapLocked(HvaRange range, const Visitor& visit) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool PrecheckOverlap(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  bool MayBeListed(HvaRange range) const;
  void RelistLocked(IndexedCache& cache, HvaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountPages(HvaRange range, uint32_t by);

  // Guards: by_hva_ and each listed cache's place in it. Taken shared to search, and exclusive to
  // list, to unlist and to invalidate. Order: group 2, after PfnCache::refresh_mutex_. Held across:
  // operations on the tree. Never held across: a wait for readers or brackets, a page-in.
  mutable absl::Mutex mutex_;
  // A std::set, because an insertion that finds no memory changes nothing; the trees of Abseil do
  // not promise that.
  std::set<Key> by_hva_ ABSL_GUARDED_BY(mutex_);
  // The number of pages of listed caches in each bucket. Changed under mutex_ and read without a
  // lock. Pairs with: InFlightRanges::Add, as the search for ranges in flight pairs with claims.
  // Without it: the refresh misses the range and the invalidation misses the cache.
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

#endif  // UNDERFOOT_MMU_CACHES_PFN_CACHE_INDEX_H_
