// Churn that makes huge pages of guest RAM and splits their mappings again.
//
// Without --huge-pages thp, guest RAM is MADV_NOHUGEPAGE. A collapse clears that for one block and
// sets it again afterwards, so that khugepaged never collapses guest RAM itself. A huge page stays
// until an operation splits it.
//
// After a collapse the block is one frame of the host, and stage-2 gets one leaf for it. The change
// of protection that splits the mapping of a block also splits its leaf.
//
// Thread safety: any thread, outside of read sections.
// After: Documentation/admin-guide/mm/transhuge.rst; MADV_COLLAPSE (Linux 6.1) in madvise(2).

#ifndef UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_
#define UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_

#include <optional>

#include "absl/status/statusor.h"
#include "mmu/mmu.h"
#include "vmm/churn/outcome.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {

class HugePageChurn {
 public:
  HugePageChurn(Mmu& mmu, Userfaultfd& uffd, HugePages huge_pages)
      : mmu_(mmu), uffd_(uffd), huge_pages_(huge_pages) {}

  // An aligned block of `bytes` in the slot, chosen by `random`. nullopt: the slot has none.
  static std::optional<HvaRange> BlockIn(const RamSlot& slot, uint64_t bytes, uint64_t random);

  // Faults the block's pages in and collapses them into one huge page. Declined if the kernel finds
  // a page that it cannot collapse: pinned, write-protected meanwhile, or just removed. Of a memfd the
  // call fails although the file has its huge page afterwards; that is done.
  absl::StatusOr<ChurnOutcome> Collapse(const RamSlot& slot, HvaRange block);
  // Collapses the block, and then protects one page of it for a moment, which splits the mapping.
  absl::StatusOr<ChurnOutcome> Split(const RamSlot& slot, HvaRange block);

 private:
  bool HasOneLeaf(Gfn block) const;

  Mmu& mmu_;
  Userfaultfd& uffd_;
  const HugePages huge_pages_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_
