// Asks every leaf of a range whether it is young and, when told to, makes it old. Asks all of them
// (I8).

#ifndef UNDERFOOT_MMU_AGE_VISITOR_H_
#define UNDERFOOT_MMU_AGE_VISITOR_H_

#include "mmu/walker.h"

namespace underfoot {

class AgeVisitor {
 public:
  explicit AgeVisitor(bool clear) : clear_(clear) {}

  bool young() const { return young_; }

  VisitResult Leaf(const Visit& visit) {
    if (!visit.pte.is_leaf() || !visit.pte.young()) return VisitResult::kContinue;
    if (clear_ && !visit.entry.Replace(visit.pte, visit.pte.Old())) return VisitResult::kRetry;
    young_ = true;
    return VisitResult::kContinue;
  }

 private:
  const bool clear_;
  bool young_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_AGE_VISITOR_H_
