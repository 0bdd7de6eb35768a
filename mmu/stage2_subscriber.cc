#include "mmu/stage2_subscriber.h"

#include "mmu/mutant.h"
#include "mmu/sync_point.h"

namespace underfoot {

bool Stage2Subscriber::Invalidate(const Invalidation& invalidation) {
  // The notifier has an RCU read section open around this.
  WalkDebts debts;
  // After the range was published as in flight: a slot that this set does not have yet is seen by
  // nobody who has not seen the range (P5).
  const MemslotSet& set = memslots_.CurrentAfterAnnouncement();
  UNDERFOOT_SYNC_POINT("stage2-walk");
  set.ForEachOverlap(invalidation.range, [&](const Memslot& slot, HvaRange overlap) {
    switch (invalidation.kind) {
      case InvalidationKind::kUnmap:
        stage2_.Unmap(slot.GfnsOf(overlap), debts, slot.dirty_sink());
        break;
      case InvalidationKind::kProtect:
        stage2_.WriteProtect(slot.GfnsOf(overlap), debts);
        break;
    }
    if (UNDERFOOT_MUTANT("flush-per-memslot")) stage2_.Settle(debts);
  });
  UNDERFOOT_SYNC_POINT("stage2-walked");
  const bool held = debts.flush_due || !debts.retired.empty();
  stage2_.Settle(debts);
  return held;
}

bool Stage2Subscriber::TestClearYoung(HvaRange range, bool clear) {
  bool young = false;
  memslots_.Current().ForEachOverlap(range, [&](const Memslot& slot, HvaRange overlap) {
    young = stage2_.TestClearYoung(slot.GfnsOf(overlap), clear) || young;
  });
  return young;
}

}  // namespace underfoot
