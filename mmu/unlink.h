// Taking an empty table out of stage-2 (P2): shared by everybody who empties an entry.

#ifndef UNDERFOOT_MMU_UNLINK_H_
#define UNDERFOOT_MMU_UNLINK_H_

#include "mmu/mutant.h"
#include "mmu/retired.h"
#include "mmu/stage2.h"
#include "mmu/sync_point.h"
#include "mmu/table.h"

namespace underfoot {

// Empties the parent's entry of a dead table. The one that wins retires it and drops the parent's
// count.
inline void UnlinkDead(Table& parent, Entry& entry, Table& child, Stage2Counters& counters,
                       RetiredBatch& batch) {
  if (!entry.Replace(Pte::ToTable(&child), Pte())) return;
  batch.Add(&child);
  counters.tables.Sub();
  if (UNDERFOOT_MUTANT("unlink-keeps-reference")) return;
  static_cast<void>(parent.Unref());  // whoever walks on up looks at the parent's count itself
}

// Unlinks the table if its last entry has gone.
inline void UnlinkIfEmpty(Table& parent, Entry& entry, Table& child, Stage2Counters& counters,
                          RetiredBatch& batch) {
  if (UNDERFOOT_MUTANT("empty-table-stays")) return;
  if (child.dead() || (child.count() == 1 && child.TryKill())) {
    UNDERFOOT_SYNC_POINT("table-killed");
    UnlinkDead(parent, entry, child, counters, batch);
  }
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_UNLINK_H_
