// Removes every leaf of a range, steals every claim, unlinks every table that this empties.

#ifndef UNDERFOOT_MMU_UNMAP_VISITOR_H_
#define UNDERFOOT_MMU_UNMAP_VISITOR_H_

#include <utility>

#include "mmu/mutant.h"
#include "mmu/split.h"
#include "mmu/unlink.h"
#include "mmu/walker.h"

namespace underfoot {

class UnmapVisitor {
 public:
  UnmapVisitor(Stage2Counters& counters, RetiredBatch& batch)
      : counters_(counters), batch_(batch) {}

  bool unmapped() const { return unmapped_; }

  VisitResult Leaf(const Visit& visit) {
    if (visit.pte.is_claim() && UNDERFOOT_MUTANT("unmap-spares-claims")) {
      return VisitResult::kContinue;
    }
    if (visit.pte.is_claim() && UNDERFOOT_MUTANT("unmap-waits-for-installers")) return Lost();
    if (visit.pte.is_leaf() && !visit.whole()) return UnmapPart(visit);
    if (!visit.entry.Replace(visit.pte, Pte())) return Lost();
    if (!UNDERFOOT_MUTANT("unmap-keeps-reference")) {
      static_cast<void>(visit.table.Unref());  // TablePost looks at the count
    }
    if (visit.pte.is_leaf()) {
      counters_.leaves(visit.level()).Sub();
      CountUnmap();
    }
    return VisitResult::kContinue;
  }

  VisitResult TablePost(const Visit& visit) {
    UnlinkIfEmpty(visit.table, visit.entry, *visit.pte.table(), counters_, batch_);
    return VisitResult::kContinue;
  }

 private:
  VisitResult UnmapPart(const Visit& visit) {
    const GfnRange gone = UNDERFOOT_MUTANT("unmap-of-a-part-takes-more")
                              ? GfnRange{visit.covers.begin, visit.range.end}
                              : visit.range;
    PrivateTable rest = BuildSplit(visit.pte.WithTag(0), visit.level(), visit.covers, gone,
                                   [](Pte) { return Pte(); });
    if (!PublishSplit(visit, std::move(rest), counters_)) return Lost();
    CountUnmap();
    return VisitResult::kContinue;
  }

  void CountUnmap() {
    counters_.unmaps.Add();
    unmapped_ = true;
  }

  VisitResult Lost() {
    counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

  Stage2Counters& counters_;
  RetiredBatch& batch_;
  bool unmapped_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_UNMAP_VISITOR_H_
