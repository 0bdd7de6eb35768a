// The stage-2 walker: visits every entry of a gfn range, each read once per visit.
//
// A visitor offers some of
//   VisitResult Leaf(const Visit&)       a leaf or a claim: whatever is neither a hole nor a table
//   VisitResult Hole(const Visit&)       an empty entry, at whatever level it was met
//   VisitResult TablePre(const Visit&)   before the walk goes down into a table
//   VisitResult TablePost(const Visit&)  after it, also when the walk was stopped below
//   VisitResult CoveredTable(const Visit&)  a table of pages that the walk's range covers whole,
//                                        instead of all the others for it and its entries
// The walk is shared: others change entries at the same time. A visitor changes visit.entry by
// compare-exchange from visit.pte and returns kRetry if that failed; the walk then reads the entry
// again.
//
// Thread safety: the caller holds an rcu::ReadScope over the walk.
// After: tdp_iter of KVM's TDP MMU (arch/x86/kvm/mmu), and kvm_pgtable_walk of KVM on arm64.

#ifndef UNDERFOOT_MMU_STAGE2_WALKER_H_
#define UNDERFOOT_MMU_STAGE2_WALKER_H_

#include <algorithm>

#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "mmu/stage2/table.h"

namespace underfoot {

enum class [[nodiscard]] VisitResult{kContinue, kRetry, kStop};

struct Visit {
  Table& table;
  Entry& entry;
  Pte pte;          // as read, once
  GfnRange covers;  // all pages that the entry covers
  GfnRange range;   // the part of them that the walk covers

  unsigned level() const { return table.level; }
  bool whole() const { return range == covers; }
};

template <class Visitor>
VisitResult Walk(Table& table, GfnRange range, Visitor& visitor);

template <class Visitor>
VisitResult VisitEntry(const Visit& visit, Visitor& visitor) {
  if (visit.pte.empty()) {
    if constexpr (requires { visitor.Hole(visit); }) return visitor.Hole(visit);
    return VisitResult::kContinue;
  }
  if (!visit.pte.is_table()) return visitor.Leaf(visit);
  if constexpr (requires { visitor.CoveredTable(visit); }) {
    if (visit.level() == 1 && visit.whole()) return visitor.CoveredTable(visit);
  }
  if constexpr (requires { visitor.TablePre(visit); }) {
    const VisitResult result = visitor.TablePre(visit);
    if (result != VisitResult::kContinue) return result;
  }
  const VisitResult below = Walk(*visit.pte.table(), visit.range, visitor);
  if constexpr (requires { visitor.TablePost(visit); }) {
    const VisitResult result = visitor.TablePost(visit);
    if (result != VisitResult::kContinue) return result;
  }
  return below;
}

// kContinue when the range was walked to its end, kStop when a visitor ended it.
template <class Visitor>
VisitResult Walk(Table& table, GfnRange range, Visitor& visitor) {
  for (Gfn gfn = range.begin; gfn < range.end;) {
    const GfnRange covers = EntryRange(gfn, table.level);
    const GfnRange part{gfn, std::min(covers.end, range.end)};
    Entry& entry = table.entries[IndexOf(gfn, table.level)];
    VisitResult result = VisitEntry({table, entry, entry.Load(), covers, part}, visitor);
    while (result == VisitResult::kRetry) {
      CpuRelax();
      result = VisitEntry({table, entry, entry.Load(), covers, part}, visitor);
    }
    if (result == VisitResult::kStop) return result;
    gfn = part.end;
  }
  return VisitResult::kContinue;
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_WALKER_H_
