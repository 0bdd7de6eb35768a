// A tree of tables that no other thread has seen. It is built in private and then published by one
// compare-exchange of the entry above it, or freed at once.
//
// Thread safety: one thread, until it is published.
// Errors: the functions throw std::bad_alloc.

#ifndef UNDERFOOT_MMU_STAGE2_PRIVATE_TABLE_H_
#define UNDERFOOT_MMU_STAGE2_PRIVATE_TABLE_H_

#include <memory>
#include <span>

#include "mmu/stage2/pte.h"
#include "mmu/stage2/table.h"

namespace underfoot {

struct PrivateTableDeleter {
  void operator()(Table* table) const {
    for (Entry& entry : table->entries) {
      if (entry.Load().is_table()) (*this)(entry.Load().table());
    }
    delete table;
  }
};
using PrivateTable = std::unique_ptr<Table, PrivateTableDeleter>;

// Makes a table with the entries `ptes`. The result owns the tables that they point to.
inline PrivateTable MakePrivateTable(unsigned level, std::span<const Pte, kEntries> ptes) {
  uint32_t in_use = 0;
  for (const Pte pte : ptes) in_use += !pte.empty();
  PrivateTable table(new Table(Table::Unwritten{}, level, in_use));
  for (unsigned i = 0; i < kEntries; ++i) table->entries[i].InitUnpublished(ptes[i]);
  return table;
}

// Makes a table with every entry in use. Entry i is `pte_at(i)`, written in place.
template <class PteAt>
PrivateTable MakeFullTable(unsigned level, const PteAt& pte_at) {
  PrivateTable table(new Table(Table::Unwritten{}, level, kEntries));
  for (unsigned i = 0; i < kEntries; ++i) table->entries[i].InitUnpublished(pte_at(i));
  return table;
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_PRIVATE_TABLE_H_
