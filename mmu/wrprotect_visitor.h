// Takes the write permission from every leaf of a range without breaking the entry (I6); the dirty
// bit stays (I8). Steals claims: a claim may be about to become a writable leaf.

#ifndef UNDERFOOT_MMU_WRPROTECT_VISITOR_H_
#define UNDERFOOT_MMU_WRPROTECT_VISITOR_H_

#include <utility>

#include "mmu/mutant.h"
#include "mmu/split.h"
#include "mmu/unlink.h"
#include "mmu/walker.h"

namespace underfoot {

class WriteProtectVisitor {
 public:
  WriteProtectVisitor(Stage2Counters& counters, RetiredBatch& batch)
      : counters_(counters), batch_(batch) {}

  bool changed() const { return changed_; }

  VisitResult Leaf(const Visit& visit) {
    if (visit.pte.is_claim()) return StealClaim(visit);
    const Pte read_only = visit.pte.ReadOnly();
    // Nothing to write where nothing changes. A read-only leaf that is being relaxed loses its tag.
    if (read_only == visit.pte && !UNDERFOOT_MUTANT("rewrite-identical-leaf")) {
      return VisitResult::kContinue;
    }
    if (visit.pte.writable() && !visit.whole()) return ProtectPart(visit);
    const Pte desired = UNDERFOOT_MUTANT("wrprotect-drops-dirty") ? read_only.Clean() : read_only;
    if (!visit.entry.Replace(visit.pte, desired)) return Lost();
    changed_ = changed_ || visit.pte.writable();
    return VisitResult::kContinue;
  }

  VisitResult TablePost(const Visit& visit) {
    UnlinkIfEmpty(visit.table, visit.entry, *visit.pte.table(), counters_, batch_);
    return VisitResult::kContinue;
  }

 private:
  VisitResult StealClaim(const Visit& visit) {
    if (!visit.entry.Replace(visit.pte, Pte())) return Lost();
    static_cast<void>(visit.table.Unref());  // TablePost looks at the count
    return VisitResult::kContinue;
  }

  VisitResult ProtectPart(const Visit& visit) {
    PrivateTable split = BuildSplit(visit.pte.WithTag(0), visit.level(), visit.covers, visit.range,
                                    [](Pte leaf) { return leaf.ReadOnly(); });
    if (!PublishSplit(visit, std::move(split), counters_)) return Lost();
    changed_ = true;
    return VisitResult::kContinue;
  }

  VisitResult Lost() {
    counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

  Stage2Counters& counters_;
  RetiredBatch& batch_;
  bool changed_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_WRPROTECT_VISITOR_H_
