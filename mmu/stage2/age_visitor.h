// A visitor that tests whether any leaf of a range is young and, if `clear` is set, makes the young
// ones old. It visits all leaves and does not stop at the first young one (I8).
//
// Thread safety: one thread walks with one visitor; other threads may change the same entries.
// After: the callbacks clear_flush_young and test_young of KVM's MMU notifier (its tracepoints are
// kvm_age_hva and kvm_test_age_hva), with kvm_age_gfn and kvm_test_age_gfn.

#ifndef UNDERFOOT_MMU_STAGE2_AGE_VISITOR_H_
#define UNDERFOOT_MMU_STAGE2_AGE_VISITOR_H_

#include "mmu/stage2/walker.h"

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

#endif  // UNDERFOOT_MMU_STAGE2_AGE_VISITOR_H_
