// Splits blocks into smaller ones, whole, as eager page splitting does before dirty logging starts:
// no translation is added, none is lost, so no invalidation needs to be looked for.
//
// The tables come from a pool that was filled before the walk.
// After: kvm_pgtable_stage2_split and tdp_mmu_split_huge_pages_root in Linux.

#ifndef UNDERFOOT_MMU_SPLIT_VISITOR_H_
#define UNDERFOOT_MMU_SPLIT_VISITOR_H_

#include <array>
#include <utility>

#include "mmu/mutant.h"
#include "mmu/private_table.h"
#include "mmu/split.h"
#include "mmu/sync_point.h"
#include "mmu/table_pool.h"
#include "mmu/walker.h"

namespace underfoot {

class SplitVisitor {
 public:
  SplitVisitor(Stage2Counters& counters, unsigned level, TablePool& pool, Gfn end)
      : counters_(counters), level_(level), pool_(pool), reached_(end) {}

  Gfn reached() const { return reached_; }

  // One level a visit: the entry is then read again, and the walk goes down into the new table.
  VisitResult Leaf(const Visit& visit) {
    if (!visit.pte.is_leaf() || visit.level() <= level_) return VisitResult::kContinue;
    PrivateTable table = pool_.Take(visit.level() - 1);
    if (table == nullptr) {
      reached_ = visit.range.begin;
      return VisitResult::kStop;
    }
    // A relaxing owner's tag goes with the block: its owner starts again, on a page of its own.
    const Pte block = visit.pte.WithTag(0);
    for (unsigned i = 0; i < kEntries; ++i) {
      const Pte part = block.WithPfn(block.pfn() + i * PagesAt(visit.level() - 1));
      table->entries[i].InitUnpublished(UNDERFOOT_MUTANT("split-drops-dirty") ? part.Clean()
                                                                              : part);
    }
    UNDERFOOT_SYNC_POINT("split-publish");
    if (!PublishSplit(visit, std::move(table), counters_)) counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

 private:
  Stage2Counters& counters_;
  const unsigned level_;
  TablePool& pool_;
  Gfn reached_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_SPLIT_VISITOR_H_
