// A table page of stage-2: 512 entries and the count that decides when it goes.
//
// Life (P2): 1. made private, filled, published by one compare-exchange of its parent entry;
//            2. count = 1 + non-empty entries, claims included (I5);
//            3. an entry that turns empty drops one; 1 -> 0 makes the table DEAD, for good;
//            4. whoever empties the parent entry retires it: unlink, flush, grace period, free
//            (I4).
//
// Thread safety: entries and count are atomic. A Table is reached under rcu::ReadScope only.

#ifndef UNDERFOOT_MMU_TABLE_H_
#define UNDERFOOT_MMU_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "mmu/pte.h"
#include "mmu/table_memory.h"

namespace underfoot {

// An entry of a table. Every order is kStoreLoad: each of these steps may be the claim that an
// invalidation must see, or the scan that must see a claim; on x86 the orders cost nothing more.
class Entry {
 public:
  Pte Load() const { return Pte(Word().load(kStoreLoad)); }

  // Pairs with: Load, in Begin's scan and in installers (P1: I1, I4, B2, B3). Without it: two
  // owners of one entry, or a leaf published over an invalidation.
  bool CompareExchange(Pte& expected, Pte desired) {
    uint64_t word = expected.word();
    const bool done = Word().compare_exchange_strong(word, desired.word(), kStoreLoad);
    expected = Pte(word);
    return done;
  }
  bool Replace(Pte expected, Pte desired) { return CompareExchange(expected, desired); }

  // In a table that no other thread has seen: a plain store, so that filling a table costs no more
  // than filling an array.
  void InitUnpublished(Pte pte) { word_ = pte.word(); }

 private:
  std::atomic_ref<uint64_t> Word() const { return std::atomic_ref<uint64_t>(word_); }

  mutable uint64_t word_;  // left to the table, which knows whether each entry will be written
};

struct alignas(64) Table {
  static constexpr uint32_t kDead = 0;

  // An empty table into which `entries_in_use` entries will be put.
  Table(unsigned level_in, uint32_t entries_in_use)
      : entries{}, level(level_in), count_(1 + entries_in_use) {}

  // A table of which the caller writes every entry before anybody reads it.
  struct Unwritten {};
  Table(Unwritten, unsigned level_in, uint32_t entries_in_use)
      : level(level_in), count_(1 + entries_in_use) {}

  static void* operator new(size_t) { return table_memory::Allocate(); }
  static void operator delete(void* room) { table_memory::Free(room); }

  // A reference for an entry about to be filled. False: the table is dead, help to unlink it.
  bool TryRef() {
    uint32_t count = count_.load(kRelaxed);
    do {
      if (count == kDead && !UNDERFOOT_MUTANT("ref-revives-dead-table")) return false;
    } while (!count_.compare_exchange_weak(count, count + 1, kAcqRel, kRelaxed));
    return true;
  }

  // For `n` entries that have turned empty. True when none is in use any more: the caller tries
  // TryKill.
  // Pairs with: TryKill's acquire. What the table's last user has written is ordered by the entries
  // and the grace period as well: see mmu/LOCKING.md.
  bool Unref(uint32_t n = 1) { return count_.fetch_sub(n, kAcqRel) == 1 + n; }

  // Makes an empty table DEAD. False: somebody took a reference first, or was faster.
  bool TryKill() {
    uint32_t empty = 1;
    return count_.compare_exchange_strong(empty, kDead, kAcqRel, kRelaxed);
  }

  bool dead() const { return count_.load(kAcquire) == kDead; }
  uint32_t count() const { return count_.load(kAcquire); }

  std::array<Entry, kEntries> entries;
  const unsigned level;
  Table* next_retired = nullptr;  // owned by the Retired batch that the table is in

 private:
  std::atomic<uint32_t> count_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_TABLE_H_
