#include "mmu/caches/pfn_cache_index.h"

#include "mmu/base/check.h"
#include "mmu/base/sync_point.h"

namespace underfoot {

bool IndexedCache::Drop(InvalidationKind kind) {
  if (kind == InvalidationKind::kProtect && !writable_.load(kRelaxed)) return false;
  // Pairs with: PfnCache::Check and the compare-exchange of the refresh (P4). Without it: see
  // Section.
  const bool dropped = state_.exchange(0, kStoreLoad) != 0;
  if (dropped) invalidations_.Add();
  return dropped;
}

bool IndexedCache::TestClearYoung(bool clear) {
  // Relaxed: ageing is a hint and orders nothing.
  return clear ? young_.exchange(false, kRelaxed) : young_.load(kRelaxed);
}

PfnCacheIndex::~PfnCacheIndex() {
  absl::MutexLock lock(&mutex_);
  UNDERFOOT_CHECK(by_hva_.empty(), "pfn caches are active at the end", by_hva_.size(), 0);
}

void PfnCacheIndex::ListPending(IndexedCache& cache, HvaRange range, uint64_t pending) {
  absl::MutexLock lock(&mutex_);
  if (cache.listed_ != range) RelistLocked(cache, range);  // it may throw std::bad_alloc
  // Pairs with: PfnCacheIndex::Invalidate. Without it: a Begin that starts now finds no cache at
  // this hva.
  cache.state_.store(pending, kRelease);
}

void PfnCacheIndex::Unlist(IndexedCache& cache) {
  absl::MutexLock lock(&mutex_);
  RelistLocked(cache, {});
}

void PfnCacheIndex::RelistLocked(IndexedCache& cache, HvaRange range) {
  const HvaRange before = cache.listed_;
  if (before.begin != range.begin || before.empty() || range.empty()) {
    if (!range.empty()) by_hva_.insert({range.begin, &cache});  // first: it may throw
    if (!before.empty()) by_hva_.erase({before.begin, &cache});
  }
  cache.listed_ = range;
  CountPages(range, 1);
  CountPages(before, ~uint32_t{0});  // adds -1
}

void PfnCacheIndex::CountPages(HvaRange range, uint32_t by) {
  for (Hva page = range.begin; page < range.end; page += kPageSize) {
    listed_pages_[(page.value >> kPageShift) % kBuckets].fetch_add(by, kStoreLoad);
  }
}

bool PfnCacheIndex::MayBeListed(HvaRange range) const {
  if (range.size() > kMaxPagesLookedUp * kPageSize) return true;
  for (Hva page = range.begin; page < range.end; page += kPageSize) {
    if (listed_pages_[(page.value >> kPageShift) % kBuckets].load(kStoreLoad) != 0) return true;
  }
  return false;
}

template <class Visitor>
void PfnCacheIndex::ForEachOverlapLocked(HvaRange range, const Visitor& visit) const {
  // A cache that begins earlier than this ends before the range: its length is bounded.
  const uint64_t longest = IndexedCache::kMaxPages * kPageSize;
  const Hva first{range.begin.value > longest ? range.begin.value - longest : 0};
  for (auto it = by_hva_.lower_bound({first, nullptr}); it != by_hva_.end(); ++it) {
    if (it->first >= range.end) return;
    if (it->second->listed_.Overlaps(range) && !visit(*it->second)) return;
  }
}

bool PfnCacheIndex::PrecheckOverlap(HvaRange range) {
  bool overlap = false;
  absl::ReaderMutexLock lock(&mutex_);
  ForEachOverlapLocked(range, [&](const IndexedCache&) {
    overlap = true;
    return false;
  });
  return overlap;
}

bool PfnCacheIndex::Invalidate(const Invalidation& invalidation) {
  prechecks_.Add();
  if (!MayBeListed(invalidation.range) || !PrecheckOverlap(invalidation.range)) return false;
  precheck_overlaps_.Add();
  UNDERFOOT_SYNC_POINT("precheck-overlap");
  bool held = false;
  absl::MutexLock lock(&mutex_);
  ForEachOverlapLocked(invalidation.range, [&](IndexedCache& cache) {
    // True for each overlapping cache, in any state: a refresh or a deactivation may have dropped
    // the cache just before, and its readers may still be there.
    held = true;
    if (cache.Drop(invalidation.kind)) invalidations_.Add();
    return true;
  });
  return held;
}

void PfnCacheIndex::InvalidateGpaKeyed(const Invalidation& invalidation) {
  absl::MutexLock lock(&mutex_);
  ForEachOverlapLocked(invalidation.range, [&](IndexedCache& cache) {
    if (cache.gpa_keyed() && cache.Drop(invalidation.kind)) invalidations_.Add();
    return true;
  });
}

bool PfnCacheIndex::TestClearYoung(HvaRange range, bool clear) {
  bool young = false;
  absl::ReaderMutexLock lock(&mutex_);
  ForEachOverlapLocked(range, [&](IndexedCache& cache) {
    young = cache.TestClearYoung(clear) || young;
    return true;
  });
  return young;
}

PfnCacheStats PfnCacheIndex::Stats() const {
  PfnCacheStats stats;
  stats.refreshes = refreshes_.Get();
  stats.refresh_retries = refresh_retries_.Get();
  stats.invalidations = invalidations_.Get();
  stats.prechecks = prechecks_.Get();
  stats.precheck_overlaps = precheck_overlaps_.Get();
  absl::ReaderMutexLock lock(&mutex_);
  stats.count = by_hva_.size();
  return stats;
}

}  // namespace underfoot
