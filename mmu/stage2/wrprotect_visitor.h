// A visitor that takes the write permission from each leaf of a range. The entry is never empty in
// between (I6), and the dirty bit stays (I8). It steals claims, because a claim may be about to
// become a writable leaf. A block of which only a part is in the range is split.
//
// Thread safety: one thread walks with one visitor; other threads may change the same entries.
// Errors: without memory for a split the walk stops at `unsplit`, and the caller removes the whole
// block.
// Invariants: I1, I6, I8.

#ifndef UNDERFOOT_MMU_STAGE2_WRPROTECT_VISITOR_H_
#define UNDERFOOT_MMU_STAGE2_WRPROTECT_VISITOR_H_

#include <new>
#include <optional>
#include <utility>

#include "mmu/stage2/split.h"
#include "mmu/stage2/unlink.h"
#include "mmu/stage2/walker.h"

namespace underfoot {

class WriteProtectVisitor {
 public:
  WriteProtectVisitor(Stage2Counters& counters, RetiredBatch& batch)
      : counters_(counters), batch_(batch) {}

  bool changed() const { return changed_; }
  // The block at which the walk stopped because there was no memory to split it.
  std::optional<GfnRange> unsplit() const { return unsplit_; }

  VisitResult Leaf(const Visit& visit) {
    if (visit.pte.is_claim()) return StealClaim(visit);
    const Pte read_only = visit.pte.ReadOnly();
    // A read-only leaf without a tag is not written (I6). A read-only leaf with a tag is being
    // relaxed: it loses the tag below, so the relaxation fails.
    if (read_only == visit.pte) return VisitResult::kContinue;
    if (visit.pte.writable() && !visit.whole()) return ProtectPart(visit);
    if (!visit.entry.Replace(visit.pte, read_only)) return Lost();
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
    counters_.entries(visit.level()).Sub();
    static_cast<void>(visit.table.Unref());  // TablePost checks the count
    return VisitResult::kContinue;
  }

  VisitResult ProtectPart(const Visit& visit) {
    PrivateTable split;
    try {
      split = BuildSplit(visit.pte.WithTag(0), visit.level(), visit.covers, visit.range,
                         [](Pte leaf) { return leaf.ReadOnly(); });
    } catch (const std::bad_alloc&) {
      unsplit_ = visit.covers;
      return VisitResult::kStop;
    }
    if (!PublishTree(visit.entry, visit.pte, std::move(split), counters_)) return Lost();
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
  std::optional<GfnRange> unsplit_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_WRPROTECT_VISITOR_H_
