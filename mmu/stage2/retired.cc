#include "mmu/stage2/retired.h"

#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "mmu/base/check.h"
#include "mmu/base/sync_point.h"

namespace underfoot {
namespace {

uint64_t NowUs() { return static_cast<uint64_t>(absl::GetCurrentTimeNanos()) / 1000; }

}  // namespace

RetiredBatch::~RetiredBatch() {
  UNDERFOOT_CHECK(empty(), "retired tables were not handed over", tables_, 0);
}

void RetiredBatch::Add(Table* table) {
  table->next_retired = first_;
  first_ = table;
  ++tables_;
}

RetiredTables::~RetiredTables() { Drain(); }

void RetiredTables::HandOver(RetiredBatch& batch) noexcept {
  if (batch.empty()) return;
  RetiredHead& head = NotePending(batch);
  rcu::Defer(&head, [](rcu::DeferHead* deferred) {
    const auto& of_first = *static_cast<RetiredHead*>(deferred);
    of_first.owner->Free(of_first);
  });
  batch.first_ = nullptr;
  batch.tables_ = 0;
}

void RetiredTables::FreeAfterGracePeriod(RetiredBatch& batch) {
  if (batch.empty()) return;
  const RetiredHead& head = NotePending(batch);
  UNDERFOOT_SYNC_POINT("retired-synchronize");
  rcu::Synchronize();
  UNDERFOOT_SYNC_POINT("retired-free");
  batch.first_ = nullptr;
  batch.tables_ = 0;
  Free(head);
}

// Appends the batch to the list of pending ones. Its tables count as pending from now on.
RetiredHead& RetiredTables::NotePending(const RetiredBatch& batch) {
  retired_.Add(batch.tables_);
  peak_bytes_.Max(PendingBytes());
  RetiredHead& head = batch.first_->retired;
  head.first = batch.first_;
  head.owner = this;
  absl::MutexLock lock(&mutex_);
  head.since_us = NowUs();
  (newest_pending_ == nullptr ? oldest_pending_ : newest_pending_->next_pending) = &head;
  newest_pending_ = &head;
  return head;
}

// Frees the tables of a batch, and `batch` with them, because it lies in the first one.
void RetiredTables::Free(const RetiredHead& batch) {
  {
    absl::MutexLock lock(&mutex_);
    // Deferred calls run in the order of the hand-overs, so the batch is nearly always the first.
    RetiredHead* before = nullptr;
    RetiredHead* at = oldest_pending_;
    while (at != &batch) {
      UNDERFOOT_CHECK(at != nullptr, "a retired batch is freed that is not pending", 0, 0);
      before = std::exchange(at, at->next_pending);
    }
    (before == nullptr ? oldest_pending_ : before->next_pending) = at->next_pending;
    if (newest_pending_ == at) newest_pending_ = before;
  }
  uint64_t freed = 0;
  uint64_t entries = 0;
  for (Table* next = batch.first; next != nullptr; ++freed) {
    const std::unique_ptr<Table> table(next);
    next = table->next_retired;
    if (!table->dead()) entries += table->entries_in_use();
  }
  entries_freed_.Add(entries);
  freed_.Add(freed);
}

uint64_t RetiredTables::PendingBytes() const {
  const uint64_t freed =
      freed_.Get();  // before `retired_`, so that the difference is never negative
  return (retired_.Get() - freed) * sizeof(Table);
}

void RetiredTables::ThrottleRetired() {
  if (PendingBytes() > cap_bytes_) Drain();
}

void RetiredTables::Drain() {
  UNDERFOOT_SYNC_POINT("retired-drain");
  rcu::Barrier();
}

RcuStats RetiredTables::Stats() const {
  RcuStats stats;
  stats.freed = freed_.Get();  // before `retired`, so that the difference is never negative
  stats.retired = retired_.Get();
  stats.pending_tables = stats.retired - stats.freed;
  stats.pending_bytes = stats.pending_tables * sizeof(Table);
  stats.peak_bytes = peak_bytes_.Get();
  stats.cap_bytes = cap_bytes_;
  absl::MutexLock lock(&mutex_);
  if (oldest_pending_ != nullptr) {
    const uint64_t now = NowUs();
    const uint64_t oldest = oldest_pending_->since_us;
    stats.oldest_us = now > oldest ? now - oldest : 0;
  }
  return stats;
}

}  // namespace underfoot
