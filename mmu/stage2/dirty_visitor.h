// A visitor that moves the dirty bits of the leaves of a range into the log of their slot and
// leaves the leaves clean (step a of "Dirty pages" in mmu/LOCKING.md). It marks the log before it
// clears the bit, so that a write is always recorded in one of the two.
//
// Thread safety: one thread walks with one visitor; other threads may change the same entries.
// Invariants: I8.

#ifndef UNDERFOOT_MMU_STAGE2_DIRTY_VISITOR_H_
#define UNDERFOOT_MMU_STAGE2_DIRTY_VISITOR_H_

#include "mmu/stage2/dirty_log.h"
#include "mmu/stage2/walker.h"

namespace underfoot {

class DirtyVisitor {
 public:
  explicit DirtyVisitor(DirtySink sink) : sink_(sink) {}

  VisitResult Leaf(const Visit& visit) {
    if (!visit.pte.is_leaf() || !visit.pte.dirty()) return VisitResult::kContinue;
    sink_.Mark(visit.range);  // a dirty block marks all of its pages
    // A block that extends beyond the range stays dirty, because its other pages are not collected
    // now.
    if (!visit.whole()) return VisitResult::kContinue;
    return visit.entry.Replace(visit.pte, visit.pte.Clean()) ? VisitResult::kContinue
                                                             : VisitResult::kRetry;
  }

 private:
  const DirtySink sink_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_DIRTY_VISITOR_H_
