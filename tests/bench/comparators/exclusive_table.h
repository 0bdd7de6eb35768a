// A page table of four levels for one thread at a time: plain words, no atomic counts, no claims,
// and tables that are freed at once. The shared table is compared with it.
//
// Thread safety: none; see LockedTable.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_EXCLUSIVE_TABLE_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_EXCLUSIVE_TABLE_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "mmu/base/types.h"
#include "mmu/stage2/pte.h"
#include "mmu/stage2/table.h"

namespace underfoot::bench {

class ExclusiveTable {
 public:
  // Where its tables lie: in memory of its own, or where stage-2's do.
  enum class Memory : uint8_t { kOwn, kOfStage2 };

  explicit ExclusiveTable(Memory memory = Memory::kOwn);
  ~ExclusiveTable();
  ExclusiveTable(const ExclusiveTable&) = delete;
  ExclusiveTable& operator=(const ExclusiveTable&) = delete;

  // A leaf of 4 KiB.
  void Map(Gfn gfn, Pfn pfn, Access granted);
  // Whole tables of leaves, to consecutive frames: `gfns` begins and ends at a table's boundary. A
  // table that is new is written once.
  void MapRange(GfnRange gfns, Pfn pfn, Access granted);
  void Unmap(GfnRange range);
  // The leaf's word; empty when there is none.
  Pte Lookup(Gfn gfn) const;

  // Unlinks the tables of a range of whole GiB, a store for each GiB. FreeDetached does the work,
  // and touches nothing that is still linked.
  class Detached;
  Detached Detach(GfnRange gibs);
  void FreeDetached(const Detached& detached);

 private:
  struct Node {
    // For one of which the caller writes every word.
    struct Unwritten {};
    Node() : words{} {}
    explicit Node(Unwritten) {}

    std::array<uint64_t, kEntries> words;
    uint32_t used = 0;
  };
  static_assert(sizeof(Node) <= sizeof(Table) && alignof(Node) <= alignof(Table));

  void* Room() const;
  Node* NewNode() const { return ::new (Room()) Node; }
  void Delete(Node* node) const;
  // The table that `gfn` is in at level 1, with the ones above it.
  Node* BlockTableOf(Gfn gfn);
  Node* ChildAt(Node& node, Gfn gfn, unsigned level);
  static Node* ChildOf(uint64_t word) { return std::bit_cast<Node*>(word); }
  static uint64_t WordOf(Node* node) { return std::bit_cast<uint64_t>(node); }
  void Free(Node* node, unsigned level);
  void UnmapBelow(Node& node, unsigned level, GfnRange range);

  const Memory memory_;
  Node* const root_;
};

class ExclusiveTable::Detached {
 private:
  friend class ExclusiveTable;
  std::vector<Node*> roots_;  // of 1 GiB each
};

// The same for several threads: one lock around it all.
class LockedTable {
 public:
  void Map(Gfn gfn, Pfn pfn, Access granted) {
    const std::lock_guard lock(mutex_);
    table_.Map(gfn, pfn, granted);
  }
  void MapRange(GfnRange gfns, Pfn pfn, Access granted) {
    const std::lock_guard lock(mutex_);
    table_.MapRange(gfns, pfn, granted);
  }
  void Unmap(GfnRange range) {
    const std::lock_guard lock(mutex_);
    table_.Unmap(range);
  }

 private:
  std::mutex mutex_;
  ExclusiveTable table_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_EXCLUSIVE_TABLE_H_
