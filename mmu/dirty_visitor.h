// Moves the dirty bits of a range's leaves into the log of their slot, and leaves them clean.

#ifndef UNDERFOOT_MMU_DIRTY_VISITOR_H_
#define UNDERFOOT_MMU_DIRTY_VISITOR_H_

#include "mmu/dirty_log.h"
#include "mmu/mutant.h"
#include "mmu/walker.h"

namespace underfoot {

class DirtyVisitor {
 public:
  explicit DirtyVisitor(DirtySink sink) : sink_(sink) {}

  VisitResult Leaf(const Visit& visit) {
    if (!visit.pte.is_leaf() || !visit.pte.dirty()) return VisitResult::kContinue;
    sink_.Mark(visit.range);  // a dirty block says so of all its pages
    // A block that reaches out of the range stays dirty for the sake of its other pages.
    if (!visit.whole() || UNDERFOOT_MUTANT("collect-keeps-dirty")) return VisitResult::kContinue;
    return visit.entry.Replace(visit.pte, visit.pte.Clean()) ? VisitResult::kContinue
                                                             : VisitResult::kRetry;
  }

 private:
  const DirtySink sink_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_DIRTY_VISITOR_H_
