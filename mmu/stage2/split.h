// Splits a block leaf into a table. The table is built in private and published by one
// compare-exchange. So the rest of the block is never absent, and an invalidation of a part needs
// no second pass over the rest (P2).
//
// Thread safety: any thread, inside the RCU read section of its walk.
// Errors: BuildSplit throws std::bad_alloc. The publications return false if the entry has changed,
// and free the tree.
// Invariants: I5, I6, I8.

#ifndef UNDERFOOT_MMU_STAGE2_SPLIT_H_
#define UNDERFOOT_MMU_STAGE2_SPLIT_H_

#include <array>
#include <utility>

#include "mmu/base/types.h"
#include "mmu/stage2/private_table.h"
#include "mmu/stage2/stage2.h"
#include "mmu/stage2/table.h"
#include "mmu/stage2/walker.h"

namespace underfoot {

// Builds the table that replaces `leaf`, which is at `level` and covers `covers`. Inside `range`
// each leaf of the table is `transform(leaf)`; outside it is a copy of the part of the block.
template <class Transform>
PrivateTable BuildSplit(Pte leaf, unsigned level, GfnRange covers, GfnRange range,
                        const Transform& transform) {
  const unsigned below = level - 1;
  std::array<Pte, kEntries> ptes;
  // The tables at the two ends of `range`. This array owns them until `table` does.
  std::array<PrivateTable, 2> parts;
  unsigned cut = 0;
  for (unsigned i = 0; i < kEntries; ++i) {
    const Gfn begin = covers.begin + i * PagesAt(below);
    const GfnRange part{begin, begin + PagesAt(below)};
    const Pte same = leaf.WithPfn(leaf.pfn() + i * PagesAt(below));
    if (!part.Overlaps(range)) {
      ptes[i] = same;
    } else if (range.Contains(part)) {
      ptes[i] = transform(same);
    } else {
      parts[cut] = BuildSplit(same, below, part, range, transform);
      ptes[i] = Pte::ToTable(parts[cut++].get());
    }
  }
  PrivateTable table = MakePrivateTable(below, ptes);
  for (PrivateTable& part : parts) static_cast<void>(part.release());
  return table;
}

// The numbers that a private tree adds to the counters.
struct TreeSize {
  uint64_t tables = 0;
  std::array<uint64_t, kMaxLeafLevel + 1> leaves{};

  void AddTree(const Table& table) {
    ++tables;
    if (table.level == 0) {
      leaves[0] += table.count() - 1;
      return;
    }
    for (const Entry& entry : table.entries) {
      const Pte pte = entry.Load();
      if (pte.is_leaf()) ++leaves[table.level];
      if (pte.is_table()) AddTree(*pte.table());
    }
  }

  void Count(Stage2Counters& counters, void (ShardedCounter::*add)(uint64_t)) const {
    (counters.tables.*add)(tables);
    for (unsigned level = 0; level < leaves.size(); ++level) {
      if (leaves[level] != 0) (counters.entries(level).*add)(leaves[level]);
    }
  }
};

// Replaces `expected`, a leaf or a claim, with a private tree. Returns false if the entry has changed;
// the tree is then freed.
[[nodiscard]] inline bool PublishTree(Entry& entry, Pte expected, PrivateTable tree,
                                      Stage2Counters& counters) {
  // The tree is counted while it is private: as soon as it is published, other threads may remove
  // parts of it and count them down.
  const unsigned level = tree->level;
  TreeSize size;
  size.AddTree(*tree);
  size.Count(counters, &ShardedCounter::Add);
  if (!entry.Replace(expected, Pte::ToTable(tree.get()))) {
    size.Count(counters, &ShardedCounter::Sub);
    return false;
  }
  counters.entries(level + 1).Sub();
  static_cast<void>(tree.release());
  return true;
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_SPLIT_H_
