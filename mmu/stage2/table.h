// A table page of stage-2: 512 entries, and the count that decides when the table is freed.
//
// The life of a table (P2):
// 1. A thread makes the table in private, fills it, and publishes it by one compare-exchange of the
//    entry of its parent.
// 2. The count is 1 plus the number of entries that are not empty, claims included (I5).
// 3. A thread that empties an entry drops one reference. If the count is 1, a thread may change it
//    to 0; the table is then dead and stays dead.
// 4. The thread that empties the entry of the parent retires the table: unlink, flush, grace
//    period, free (I4). The table is dead then; or it was detached, with its entries in it, by an
//    unmap that covers it whole.
//
// Thread safety: entries and count are atomic. A thread may use a Table only inside an
// rcu::ReadScope.
// Invariants: I4, I5.

#ifndef UNDERFOOT_MMU_STAGE2_TABLE_H_
#define UNDERFOOT_MMU_STAGE2_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "mmu/base/ordering.h"
#include "mmu/base/rcu.h"
#include "mmu/stage2/pte.h"
#include "mmu/stage2/table_memory.h"

namespace underfoot {

// An entry of a table. Each access is kStoreLoad: each may be the claim that an invalidation must
// see, or the scan that must see a claim. On x86 this costs nothing more than weaker orders would.
class Entry {
 public:
  Pte Load() const { return Pte(Word().load(kStoreLoad)); }

  // Pairs with: Load, in the walk of Begin and in installers (P1.1, P1.4 and P1.b). Without it: two
  // owners of one entry, or a leaf published over an invalidation.
  bool CompareExchange(Pte& expected, Pte desired) {
    uint64_t word = expected.word();
    const bool done = Word().compare_exchange_strong(word, desired.word(), kStoreLoad);
    expected = Pte(word);
    return done;
  }
  bool Replace(Pte expected, Pte desired) { return CompareExchange(expected, desired); }

  // For a table that no other thread has seen. It is a plain store, so that filling a table costs
  // no more than filling an array.
  void InitUnpublished(Pte pte) { word_ = pte.word(); }

 private:
  std::atomic_ref<uint64_t> Word() const { return std::atomic_ref<uint64_t>(word_); }

  // Not initialized here: the constructor of the table decides whether each entry will be written.
  mutable uint64_t word_;
};

struct Table;
class RetiredTables;

// The head of a batch of retired tables that waits to be freed. It lies in the first table of the
// batch, so that handing the batch over needs no memory.
struct RetiredHead : rcu::DeferHead {
  Table* first = nullptr;
  RetiredTables* owner = nullptr;
  uint64_t since_us = 0;
  RetiredHead* next_pending = nullptr;  // guarded by the mutex of `owner`
};

struct alignas(64) Table {
  static constexpr uint32_t kDead = 0;

  // An empty table into which the caller will put `entries_in_use` entries.
  Table(unsigned level_in, uint32_t entries_in_use)
      : entries{}, level(level_in), count_(1 + entries_in_use) {}

  // A table whose entries are not initialized. The caller writes each entry before any thread reads
  // it.
  struct Unwritten {};
  Table(Unwritten, unsigned level_in, uint32_t entries_in_use)
      : level(level_in), count_(1 + entries_in_use) {}

  static void* operator new(size_t) { return table_memory::Allocate(); }
  static void operator delete(void* room) { table_memory::Free(room); }

  // Takes a reference for an entry that the caller is about to fill. Returns false if the table is
  // dead; the caller then helps to unlink it.
  bool TryRef() {
    uint32_t count = count_.load(kRelaxed);
    do {
      if (count == kDead) return false;
    } while (!count_.compare_exchange_weak(count, count + 1, kAcqRel, kRelaxed));
    return true;
  }

  // Drops `n` references, for `n` entries that were emptied. Returns true if no entry is in use any
  // more; the caller then calls TryKill. Pairs with: the acquire of TryKill. The entries and the
  // grace period order what the last user of the table has written, too: see mmu/LOCKING.md ("The
  // memory orders").
  bool Unref(uint32_t n = 1) { return count_.fetch_sub(n, kAcqRel) == 1 + n; }

  // Makes an empty table dead. Returns false if another thread took a reference first or made the
  // table dead first.
  bool TryKill() {
    uint32_t empty = 1;
    return count_.compare_exchange_strong(empty, kDead, kAcqRel, kRelaxed);
  }

  // Of a table of pages. Others may be changing it.
  bool HasLeaf() const {
    for (const Entry& entry : entries) {
      if (entry.Load().is_leaf()) return true;
    }
    return false;
  }

  bool dead() const { return count_.load(kAcquire) == kDead; }
  uint32_t count() const { return count_.load(kAcquire); }
  // Of a table that is not dead and that no other thread uses.
  uint32_t entries_in_use() const { return count() - 1; }

  std::array<Entry, kEntries> entries;
  const unsigned level;

 private:
  std::atomic<uint32_t> count_;

 public:
  Table* next_retired = nullptr;  // written by the RetiredBatch that holds the table
  RetiredHead retired;            // used in the first table of a batch
};
static_assert(sizeof(Table) == (kEntries + 16) * sizeof(uint64_t));

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_TABLE_H_
