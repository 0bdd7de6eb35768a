// Stage-2 with the operations that ExclusiveTable has, so that one loop measures both.
//
// Thread safety: as Stage2; one owner tag, so one thread each.

#ifndef UNDERFOOT_TESTS_BENCH_SHARED_TABLE_H_
#define UNDERFOOT_TESTS_BENCH_SHARED_TABLE_H_

#include "mmu/base/check.h"
#include "mmu/base/types.h"
#include "mmu/stage2/private_table.h"
#include "mmu/stage2/pte.h"
#include "mmu/stage2/stage2.h"

namespace underfoot::bench {

class SharedTable {
 public:
  explicit SharedTable(OwnerTag tag, Stage2& stage2) : stage2_(stage2), tag_(tag) {}

  void Map(Gfn gfn, Pfn pfn, Access granted) {
    const ClaimResult claim = stage2_.TryClaim(gfn, 0, granted, tag_);
    UNDERFOOT_CHECK(claim.outcome == ClaimOutcome::kClaimed, "a benchmark lost a claim", gfn.value,
                    claim.outcome);
    const bool published = stage2_.Publish(gfn, tag_, Pte::Leaf(pfn, granted));
    UNDERFOOT_CHECK(published, "a benchmark's claim was stolen", gfn.value, tag_);
  }
  void MapRange(GfnRange gfns, Pfn pfn, Access granted) {
    for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += kEntries) {
      const ClaimResult claim = stage2_.TryClaim(gfn, 1, granted, tag_);
      UNDERFOOT_CHECK(claim.outcome == ClaimOutcome::kClaimed, "a benchmark lost a claim",
                      gfn.value, claim.outcome);
      const Pfn first = pfn + (gfn - gfns.begin);
      const bool published = stage2_.PublishTable(
          gfn, tag_, MakeFullTable(0, [&](unsigned i) { return Pte::Leaf(first + i, granted); }));
      UNDERFOOT_CHECK(published, "a benchmark's claim was stolen", gfn.value, tag_);
    }
  }
  void Unmap(GfnRange range) {
    MmuGather gather;
    stage2_.Unmap(range, gather);
    stage2_.Finish(gather);
  }

 private:
  Stage2& stage2_;
  const OwnerTag tag_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_SHARED_TABLE_H_
