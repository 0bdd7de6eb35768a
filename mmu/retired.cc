#include "mmu/retired.h"

#include <memory>

#include "absl/time/clock.h"
#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/sync_point.h"

namespace underfoot {
namespace {

uint64_t NowUs() { return static_cast<uint64_t>(absl::GetCurrentTimeNanos()) / 1000; }

uint64_t FreeAll(Table* table) {
  uint64_t freed = 0;
  while (table != nullptr) {
    std::unique_ptr<Table> owned(table);
    table = table->next_retired;
    ++freed;
  }
  return freed;
}

}  // namespace

struct RetiredTables::Deferred : rcu::DeferHead {
  RetiredTables* owner = nullptr;
  Table* first = nullptr;
  uint64_t since_us = 0;
};

RetiredBatch::~RetiredBatch() {
  UNDERFOOT_CHECK(empty(), "retired tables were not handed over", tables_, 0);
}

void RetiredBatch::Add(Table* table) {
  table->next_retired = first_;
  first_ = table;
  ++tables_;
}

RetiredTables::~RetiredTables() { Drain(); }

void RetiredTables::HandOver(RetiredBatch& batch) {
  if (batch.empty()) return;
  retired_.Add(batch.tables_);
  if (UNDERFOOT_MUTANT("free-without-grace-period")) {
    freed_.Add(FreeAll(batch.first_));
  } else {
    auto* deferred = new Deferred;
    deferred->owner = this;
    deferred->first = batch.first_;
    deferred->since_us = NowUs();
    {
      absl::MutexLock lock(&mutex_);
      pending_since_us_.insert(deferred->since_us);
    }
    rcu::Defer(deferred, [](rcu::DeferHead* head) {
      std::unique_ptr<Deferred> self(static_cast<Deferred*>(head));
      const uint64_t freed = FreeAll(self->first);
      absl::MutexLock lock(&self->owner->mutex_);
      self->owner->pending_since_us_.erase(self->owner->pending_since_us_.find(self->since_us));
      self->owner->freed_.Add(freed);
    });
  }
  batch.first_ = nullptr;
  batch.tables_ = 0;
  peak_bytes_.Max(PendingBytes());
}

uint64_t RetiredTables::PendingBytes() const {
  const uint64_t freed =
      freed_.Get();  // before `retired_`, so that the difference is never negative
  return (retired_.Get() - freed) * sizeof(Table);
}

void RetiredTables::Relieve() {
  if (PendingBytes() > cap_bytes_ && !UNDERFOOT_MUTANT("backlog-grows")) Drain();
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
  absl::MutexLock lock(&mutex_);
  if (!pending_since_us_.empty()) {
    const uint64_t now = NowUs();
    const uint64_t oldest = *pending_since_us_.begin();
    stats.oldest_us = now > oldest ? now - oldest : 0;
  }
  return stats;
}

}  // namespace underfoot
