// Splitting a block leaf: the table that replaces it is built in private and published by one
// compare-exchange, so that no reader ever finds the entry broken, and an invalidation of a part
// needs no second pass over the rest.

#ifndef UNDERFOOT_MMU_SPLIT_H_
#define UNDERFOOT_MMU_SPLIT_H_

#include <memory>

#include "mmu/stage2.h"
#include "mmu/table.h"
#include "mmu/types.h"
#include "mmu/walker.h"

namespace underfoot {

// A private tree of tables, freed at once if it is not published.
struct PrivateTableDeleter {
  void operator()(Table* table) const {
    for (Entry& entry : table->entries) {
      if (entry.Load().is_table()) (*this)(entry.Load().table());
    }
    delete table;
  }
};
using PrivateTable = std::unique_ptr<Table, PrivateTableDeleter>;

// The table that stands for `leaf` (at `level`, covering `covers`), in which `transform(leaf)`
// replaces the leaves inside `range`.
template <class Transform>
PrivateTable BuildSplit(Pte leaf, unsigned level, GfnRange covers, GfnRange range,
                        const Transform& transform) {
  const unsigned below = level - 1;
  std::array<Pte, kEntries> ptes;
  uint32_t in_use = 0;
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
    in_use += !ptes[i].empty();
  }
  PrivateTable table(new Table(below, in_use));
  for (unsigned i = 0; i < kEntries; ++i) table->entries[i].InitUnpublished(ptes[i]);
  return table;
}

// What the leaves and tables of a private tree add to the counters.
inline void CountTree(const Table& table, Stage2Counters& counters,
                      void (Counter::*add)(uint64_t)) {
  (counters.tables.*add)(1);
  for (const Entry& entry : table.entries) {
    const Pte pte = entry.Load();
    if (pte.is_leaf()) (counters.leaves(table.level).*add)(1);
    if (pte.is_table()) CountTree(*pte.table(), counters, add);
  }
}

// Puts `split` in the place of `leaf`. False: the entry has changed, nothing was done.
[[nodiscard]] inline bool PublishSplit(const Visit& visit, PrivateTable split,
                                       Stage2Counters& counters) {
  // Counted while it is private: once published, others may take parts of it away at once.
  CountTree(*split, counters, &Counter::Add);
  if (!visit.entry.Replace(visit.pte, Pte::ToTable(split.get()))) {
    CountTree(*split, counters, &Counter::Sub);
    return false;
  }
  static_cast<void>(split.release());
  counters.leaves(visit.level()).Sub();
  return true;
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_SPLIT_H_
