// Churn that makes huge pages of guest RAM and splits their mappings again.
//
// Guest RAM is MADV_NOHUGEPAGE; a collapse asks for one block and says no again after it, so that
// khugepaged makes none of its own accord. A huge page stays until something splits it.
//
// Thread safety: any thread, outside of read sections.
// After: Documentation/admin-guide/mm/transhuge.rst; MADV_COLLAPSE (Linux 6.1) in madvise(2).

#ifndef UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_
#define UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_

#include <optional>

#include "absl/status/statusor.h"
#include "mmu/mmu.h"
#include "vmm/churn/outcome.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class HugePageChurn {
 public:
  HugePageChurn(Mmu& mmu, MmHooks& hooks, Userfaultfd& uffd)
      : mmu_(mmu), hooks_(hooks), uffd_(uffd) {}

  // An aligned block of 2 MiB in the slot; `random` chooses. nullopt: the slot has none.
  static std::optional<HvaRange> BlockIn(const RamSlot& slot, uint64_t random);

  // Brings the block's pages in and puts them into one huge page. Declined when the kernel finds a
  // page that it cannot take: pinned, write-protected meanwhile, just gone.
  absl::StatusOr<ChurnOutcome> Collapse(const RamSlot& slot, HvaRange block);
  // Collapse, and then protect one page of it for a moment.
  absl::StatusOr<ChurnOutcome> Split(const RamSlot& slot, HvaRange block);

 private:
  Mmu& mmu_;
  MmHooks& hooks_;
  Userfaultfd& uffd_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_HUGE_PAGES_H_
