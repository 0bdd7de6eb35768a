// A visitor that splits whole blocks into smaller leaves. Eager page splitting uses it before dirty
// logging starts. It adds no translation and loses none, so it does not have to search for brackets
// in flight.
//
// The tables come from a pool that is filled before the walk, so the walk needs no memory.
//
// Thread safety: one thread walks with one visitor; other threads may change the same entries.
// Invariants: I6, I8 (each part keeps the dirty bit of the block).
// After: kvm_pgtable_stage2_split and tdp_mmu_split_huge_pages_root in Linux.

#ifndef UNDERFOOT_MMU_STAGE2_SPLIT_VISITOR_H_
#define UNDERFOOT_MMU_STAGE2_SPLIT_VISITOR_H_

#include <array>
#include <utility>

#include "mmu/base/sync_point.h"
#include "mmu/stage2/private_table.h"
#include "mmu/stage2/split.h"
#include "mmu/stage2/table_pool.h"
#include "mmu/stage2/walker.h"

namespace underfoot {

class SplitVisitor {
 public:
  SplitVisitor(Stage2Counters& counters, unsigned level, TablePool& pool, Gfn end)
      : counters_(counters), level_(level), pool_(pool), reached_(end) {}

  Gfn reached() const { return reached_; }

  // Splits by one level in each visit. The walk then reads the entry again and goes down into the
  // new table.
  VisitResult Leaf(const Visit& visit) {
    if (!visit.pte.is_leaf() || visit.level() <= level_) return VisitResult::kContinue;
    PrivateTable table = pool_.Take(visit.level() - 1);
    if (table == nullptr) {
      reached_ = visit.range.begin;
      return VisitResult::kStop;
    }
    // The tag of an owner that is relaxing the block is lost. The owner finds no tag when it
    // publishes, and starts again with one page.
    const Pte block = visit.pte.WithTag(0);
    for (unsigned i = 0; i < kEntries; ++i) {
      const Pte part = block.WithPfn(block.pfn() + i * PagesAt(visit.level() - 1));
      table->entries[i].InitUnpublished(part);
    }
    UNDERFOOT_SYNC_POINT("split-publish");
    if (!PublishTree(visit.entry, visit.pte, std::move(table), counters_))
      counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

 private:
  Stage2Counters& counters_;
  const unsigned level_;
  TablePool& pool_;
  Gfn reached_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_SPLIT_VISITOR_H_
