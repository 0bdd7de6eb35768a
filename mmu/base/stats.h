// The counters of the library, and the structs in which a caller reads them. A struct is not an
// atomic snapshot: its fields are read one after the other.
//
// Units: events, unless the name has a unit (us: microseconds, bytes).
// Thread safety: any thread increments and reads a Counter. All accesses are relaxed, because a
// counter orders no other memory. Only one counter decides anything, the number of brackets that
// have begun: see `begins_` in LOCKING.md ("The memory orders").

#ifndef UNDERFOOT_MMU_BASE_STATS_H_
#define UNDERFOOT_MMU_BASE_STATS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "mmu/base/ordering.h"

namespace underfoot {

class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, kRelaxed); }
  void Sub(uint64_t n = 1) { value_.fetch_sub(n, kRelaxed); }
  void Max(uint64_t n) {
    uint64_t seen = value_.load(kRelaxed);
    while (seen < n && !value_.compare_exchange_weak(seen, n, kRelaxed)) {
    }
  }
  uint64_t Get() const { return value_.load(kRelaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// A counter that several threads change at a high rate: each of a few groups of threads has a cache
// line of its own. A single part may become negative (it wraps); the sum does not.
class ShardedCounter {
 public:
  void Add(uint64_t n = 1) { Mine().fetch_add(n, kRelaxed); }
  void Sub(uint64_t n = 1) { Mine().fetch_sub(n, kRelaxed); }
  uint64_t Get() const {
    uint64_t sum = 0;
    for (const Shard& shard : shards_) sum += shard.value.load(kRelaxed);
    return sum;
  }

 private:
  static constexpr unsigned kShards = 8;
  struct alignas(64) Shard {
    std::atomic<uint64_t> value{0};
  };

  std::atomic<uint64_t>& Mine() {
    thread_local constinit unsigned turn = 0;
    if (turn == 0) turn = 1 + turns_.fetch_add(1, kRelaxed) % kShards;
    return shards_[turn - 1].value;
  }

  static inline std::atomic<unsigned> turns_{0};
  std::array<Shard, kShards> shards_;
};

// A counter with one writer. An increment is a load and a store, without a locked instruction.
class OwnedCounter {
 public:
  void Add(uint64_t n = 1) { value_.store(value_.load(kRelaxed) + n, kRelaxed); }
  uint64_t Get() const { return value_.load(kRelaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Totals since the start, unless the comment of the field says "now".
struct PfnCacheStats {
  uint64_t count = 0;  // active now
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t refreshes = 0;
  uint64_t refresh_retries = 0;
  uint64_t invalidations = 0;
  uint64_t prechecks = 0;
  uint64_t precheck_overlaps = 0;
  uint64_t reader_waits = 0;
  uint64_t reader_membarriers = 0;
};

struct Stage2Stats {
  // Now. A fault counts its leaf from its claim on. The leaves of a table that was unmapped whole count until
  // the table is freed.
  uint64_t leaves_4k = 0;
  uint64_t leaves_2m = 0;  // now
  uint64_t tables = 0;     // now, the root included
  uint64_t maps = 0;
  // Leaves, and claims that an unmap stole. Those of a table that was unmapped whole are counted when it is freed.
  uint64_t unmaps = 0;
  uint64_t walk_retries = 0;
  uint64_t flushes = 0;
  uint64_t leaves_1g = 0;  // now
};

struct NotifierStats {
  uint64_t begins = 0;
  uint64_t ends = 0;
  uint64_t in_flight = 0;  // now
  uint64_t stray_ends = 0;
};

struct MemslotStats {
  uint64_t count = 0;  // now
  uint64_t generation = 0;
  uint64_t updates = 0;
  uint64_t update_wait_us_max = 0;
};

struct RcuStats {
  uint64_t retired = 0;         // table pages
  uint64_t freed = 0;           // table pages
  uint64_t pending_tables = 0;  // now
  uint64_t pending_bytes = 0;   // now
  uint64_t oldest_us = 0;       // now: the age of the oldest pending batch
  uint64_t peak_bytes = 0;      // the highest pending_bytes so far
  uint64_t cap_bytes = 0;       // of pending_bytes
};

struct MmuStats {
  PfnCacheStats pfn_caches;
  Stage2Stats stage2;
  NotifierStats notifier;
  MemslotStats memslots;
  RcuStats rcu;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_STATS_H_
