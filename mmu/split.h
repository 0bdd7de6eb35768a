// Splitting a block leaf: the table that replaces it is built in private and published by one
// compare-exchange, so that no reader ever finds the entry broken, and an invalidation of a part
// needs no second pass over the rest.

#ifndef UNDERFOOT_MMU_SPLIT_H_
#define UNDERFOOT_MMU_SPLIT_H_

#include <array>
#include <utility>

#include "mmu/private_table.h"
#include "mmu/stage2.h"
#include "mmu/table.h"
#include "mmu/types.h"
#include "mmu/walker.h"

namespace underfoot {

// The table that stands for `leaf` (at `level`, covering `covers`), in which `transform(leaf)`
// replaces the leaves inside `range`.
template <class Transform>
PrivateTable BuildSplit(Pte leaf, unsigned level, GfnRange covers, GfnRange range,
                        const Transform& transform) {
  const unsigned below = level - 1;
  std::array<Pte, kEntries> ptes;
  for (unsigned i = 0; i < kEntries; ++i) {
    const Gfn begin = covers.begin + i * PagesAt(below);
    const GfnRange part{begin, begin + PagesAt(below)};
    const Pte same = leaf.WithPfn(leaf.pfn() + i * PagesAt(below));
    if (!part.Overlaps(range)) {
      ptes[i] = same;
    } else if (range.Contains(part)) {
      ptes[i] = transform(same);
    } else {
      ptes[i] = Pte::ToTable(BuildSplit(same, below, part, range, transform).release());
    }
  }
  return MakePrivateTable(below, ptes);
}

// What a private tree adds to the counters.
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
      if (leaves[level] != 0) (counters.leaves(level).*add)(leaves[level]);
    }
  }
};

// Puts a private tree in the place of `expected`. False: the entry has changed, the tree is freed.
[[nodiscard]] inline bool PublishTree(Entry& entry, Pte expected, PrivateTable tree,
                                      Stage2Counters& counters) {
  // Counted while it is private: once published, others may take parts of it away at once.
  TreeSize size;
  size.AddTree(*tree);
  size.Count(counters, &ShardedCounter::Add);
  if (!entry.Replace(expected, Pte::ToTable(tree.get()))) {
    size.Count(counters, &ShardedCounter::Sub);
    return false;
  }
  static_cast<void>(tree.release());
  return true;
}

// Puts `split` in the place of the leaf that was visited.
[[nodiscard]] inline bool PublishSplit(const Visit& visit, PrivateTable split,
                                       Stage2Counters& counters) {
  if (!PublishTree(visit.entry, visit.pte, std::move(split), counters)) return false;
  counters.leaves(visit.level()).Sub();
  return true;
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_SPLIT_H_
