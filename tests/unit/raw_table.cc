#include "tests/unit/raw_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mmu/base/rcu.h"

namespace underfoot::testing {
namespace {

void ReadTable(Table& table, Gfn first, uint32_t count_of_empty, RawTables& raw) {
  ++raw.tables;
  uint32_t in_use = 0;
  for (unsigned i = 0; i < kEntries; ++i) {
    const Pte pte = table.entries[i].Load();
    const Gfn gfn = first + i * PagesAt(table.level);
    in_use += !pte.empty();
    if (pte.is_leaf()) {
      raw.leaves.push_back({gfn, table.level, pte});
      ++raw.leaves_at[table.level];
    }
    if (pte.is_claim() || (pte.is_leaf() && pte.tag() != 0)) {
      raw.claims.push_back({gfn, table.level, pte});
    }
    if (pte.is_table()) {
      if (pte.table()->level + 1 != table.level) {
        raw.complaints.push_back(absl::StrFormat("gfn 0x%x: a table of level %u below level %u",
                                                 gfn.value, pte.table()->level, table.level));
      }
      ReadTable(*pte.table(), gfn, 1, raw);
    }
  }
  if (table.count() != count_of_empty + in_use) {
    raw.complaints.push_back(
        absl::StrFormat("the table of level %u at gfn 0x%x counts %u, has %u entries", table.level,
                        first.value, table.count(), in_use));
  }
  if (in_use == 0 && table.level != kLevels - 1) {
    raw.complaints.push_back(
        absl::StrFormat("an empty table of level %u at gfn 0x%x", table.level, first.value));
  }
}

}  // namespace

RawTables ReadTables(Stage2& stage2) {
  RawTables raw;
  ReadTable(stage2.RootUnsafe(), {0}, 2, raw);
  return raw;
}

std::vector<std::string> LeafLines(Stage2& stage2) {
  std::vector<std::string> lines;
  for (const RawEntry& leaf : ReadTables(stage2).leaves) {
    lines.push_back(absl::StrFormat("0x%x+%u -> 0x%x %s%s%s", leaf.gfn.value, PagesAt(leaf.level),
                                    leaf.pte.pfn().value, leaf.pte.writable() ? "w" : "-",
                                    leaf.pte.young() ? "y" : "-", leaf.pte.dirty() ? "d" : "-"));
  }
  return lines;
}

std::string WhatIsWrongWith(Stage2& stage2) {
  RawTables raw = ReadTables(stage2);
  const auto compare = [&raw](const char* what, uint64_t counted, uint64_t reachable) {
    if (counted != reachable) {
      raw.complaints.push_back(
          absl::StrFormat("%s: counted %u, reachable %u", what, counted, reachable));
    }
  };
  // The leaves of a table that was unmapped whole count until the table is freed.
  if (stage2.RetiredStats().pending_tables != 0) rcu::Barrier();
  const Stage2Stats stats = stage2.Stats();
  // Claims count as leaves, but here there is none.
  compare("leaves of 4K", stats.leaves_4k, raw.leaves_at[0]);
  compare("leaves of 2M", stats.leaves_2m, raw.leaves_at[1]);
  compare("tables", stats.tables, raw.tables);
  compare("claims", 0, raw.claims.size());
  return absl::StrJoin(raw.complaints, "; ");
}

}  // namespace underfoot::testing
