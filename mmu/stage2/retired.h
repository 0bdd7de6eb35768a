// Table pages that are unlinked and not yet freed.
//
// A walk collects what it unlinks in a RetiredBatch; when it has finished and flushed, the batch is
// handed over as one deferred call (I4). The backlog has a cap in bytes: above it the retiring
// thread waits for a grace period, with no lock and no read section held, so that a stalled reader
// gives back-pressure and not growth. A teardown gathers the tables of several walks. Only if they
// exceed the cap it frees them itself after one grace period (FreeAfterGracePeriod), which is much
// shorter than a wait for the worker that makes deferred calls (`./dev bench --only 6`).
//
// A table that was detached still has its entries. They are counted, by the count of the table, when the
// table is freed, because only then can no thread add or remove one.
//
// Thread safety: RetiredBatch: one thread. RetiredTables: any thread.
// Compare: struct mmu_gather in Linux, which collects what an unmap must flush and free;
// kvm_flush_remote_tlbs, in place of which Stage2::Flush counts a flush; and handle_removed_pt of
// KVM's TDP MMU, whose tables are freed by RCU.

#ifndef UNDERFOOT_MMU_STAGE2_RETIRED_H_
#define UNDERFOOT_MMU_STAGE2_RETIRED_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/rcu.h"
#include "mmu/base/stats.h"
#include "mmu/stage2/table.h"

namespace underfoot {

class RetiredBatch {
 public:
  RetiredBatch() = default;
  ~RetiredBatch();  // checks that it was handed over
  RetiredBatch(const RetiredBatch&) = delete;
  RetiredBatch& operator=(const RetiredBatch&) = delete;

  void Add(Table* table);
  bool empty() const { return first_ == nullptr; }
  uint64_t bytes() const { return tables_ * sizeof(Table); }

 private:
  friend class RetiredTables;
  Table* first_ = nullptr;
  uint64_t tables_ = 0;
};

class RetiredTables {
 public:
  static constexpr uint64_t kDefaultCapBytes = 16u << 20;

  explicit RetiredTables(uint64_t cap_bytes = kDefaultCapBytes) : cap_bytes_(cap_bytes) {}
  ~RetiredTables();  // returns with nothing outstanding (I5)
  RetiredTables(const RetiredTables&) = delete;
  RetiredTables& operator=(const RetiredTables&) = delete;

  // After the flush. Never waits, and needs no memory.
  void HandOver(RetiredBatch& batch) noexcept;

  // Whether the backlog would keep to its cap if `batch` were handed over now. Other threads may
  // hand over at any time, so the answer bounds what the caller adds and decides nothing else.
  bool HasRoomFor(const RetiredBatch& batch) const {
    return PendingBytes() + batch.bytes() <= cap_bytes_;
  }

  // In place of HandOver, after the flush: waits for a grace period and frees the batch. Outside of
  // any read section.
  void FreeAfterGracePeriod(RetiredBatch& batch);

  // Back-pressure: waits for a grace period while the backlog is over its cap. The thread that has
  // handed tables over calls it, outside of any read section and lock.
  void ThrottleRetired();

  // Waits until all that was handed over is freed.
  void Drain();

  RcuStats Stats() const;
  // The leaves and claims that were in tables when these were freed.
  uint64_t entries_freed() const { return entries_freed_.Get(); }

 private:
  uint64_t PendingBytes() const;
  RetiredHead& NotePending(const RetiredBatch& batch) ABSL_LOCKS_EXCLUDED(mutex_);
  void Free(const RetiredHead& batch) ABSL_LOCKS_EXCLUDED(mutex_);

  const uint64_t cap_bytes_;
  Counter retired_;
  Counter freed_;
  Counter peak_bytes_;
  Counter entries_freed_;
  // Guards: the list of batches not yet freed, the oldest first. Order: innermost. Held across a
  // list operation, never across a wait.
  mutable absl::Mutex mutex_;
  RetiredHead* oldest_pending_ ABSL_GUARDED_BY(mutex_) = nullptr;
  RetiredHead* newest_pending_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_RETIRED_H_
