// Unlinks an empty table from stage-2 (P2). All code that empties an entry uses these functions.
//
// Thread safety: any thread, inside the RCU read section of its walk.
// Invariants: I4, I5.

#ifndef UNDERFOOT_MMU_STAGE2_UNLINK_H_
#define UNDERFOOT_MMU_STAGE2_UNLINK_H_

#include "mmu/base/sync_point.h"
#include "mmu/stage2/retired.h"
#include "mmu/stage2/stage2.h"
#include "mmu/stage2/table.h"

namespace underfoot {

// Empties the entry of the parent that points to the dead table `child`. The thread whose exchange
// succeeds retires the table and drops the parent's reference.
inline void UnlinkDead(Table& parent, Entry& entry, Table& child, Stage2Counters& counters,
                       RetiredBatch& batch) {
  if (!entry.Replace(Pte::ToTable(&child), Pte())) return;
  batch.Add(&child);
  counters.tables.Sub();
  // Each walk checks the count of the parent itself when it goes up.
  static_cast<void>(parent.Unref());
}

// Unlinks the table if its last entry has been emptied.
inline void UnlinkIfEmpty(Table& parent, Entry& entry, Table& child, Stage2Counters& counters,
                          RetiredBatch& batch) {
  if (child.dead() || (child.count() == 1 && child.TryKill())) {
    UNDERFOOT_SYNC_POINT("table-killed");
    UnlinkDead(parent, entry, child, counters, batch);
  }
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_UNLINK_H_
