// Table pages that are unlinked and not yet freed.
//
// A walk collects what it unlinks in a RetiredBatch; when it has finished and flushed, the batch is
// handed over as one deferred call (I4). The backlog has a cap in bytes: above it the retiring
// thread waits for a grace period, with no lock and no read section held, so that a stalled reader
// gives back-pressure and not growth.
//
// Thread safety: RetiredBatch: one thread. RetiredTables: any thread.

#ifndef UNDERFOOT_MMU_RETIRED_H_
#define UNDERFOOT_MMU_RETIRED_H_

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/synchronization/mutex.h"
#include "mmu/rcu.h"
#include "mmu/stats.h"
#include "mmu/table.h"

namespace underfoot {

class RetiredBatch {
 public:
  RetiredBatch() = default;
  ~RetiredBatch();  // checks that it was handed over
  RetiredBatch(const RetiredBatch&) = delete;
  RetiredBatch& operator=(const RetiredBatch&) = delete;

  void Add(Table* table);
  bool empty() const { return first_ == nullptr; }

 private:
  friend class RetiredTables;
  Table* first_ = nullptr;
  uint64_t tables_ = 0;
};

class RetiredTables {
 public:
  static constexpr uint64_t kDefaultCapBytes = 4u << 20;

  explicit RetiredTables(uint64_t cap_bytes = kDefaultCapBytes) : cap_bytes_(cap_bytes) {}
  ~RetiredTables();  // returns with nothing outstanding (I5)
  RetiredTables(const RetiredTables&) = delete;
  RetiredTables& operator=(const RetiredTables&) = delete;

  // After the flush. Never waits.
  void HandOver(RetiredBatch& batch);

  // Back-pressure: waits for a grace period while the backlog is over its cap. Outside of any read
  // section and lock, by whoever has handed over.
  void Relieve();

  // Waits until all that was handed over is freed.
  void Drain();

  RcuStats Stats() const;

 private:
  struct Deferred;
  uint64_t PendingBytes() const;

  const uint64_t cap_bytes_;
  Counter retired_;
  Counter freed_;
  Counter peak_bytes_;
  // Guards: the hand-over times of batches not yet freed. Order: innermost. Held across a set
  // operation, never across a wait.
  mutable absl::Mutex mutex_;
  absl::btree_multiset<uint64_t> pending_since_us_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_RETIRED_H_
