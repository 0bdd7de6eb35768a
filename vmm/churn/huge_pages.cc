#include "vmm/churn/huge_pages.h"

#include <sys/mman.h>

#include "absl/status/status.h"
#include "mmu/base/rcu.h"
#include "mmu/readers/reader.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
std::optional<HvaRange> HugePageChurn::BlockIn(const RamSlot& slot, uint64_t bytes,
                                               uint64_t random) {
  const uint64_t first = (slot.hva.value + bytes - 1) / bytes;
  const uint64_t end = (slot.hva.value + slot.bytes) / bytes;
  if (first >= end) return std::nullopt;
  const Hva begin{(first + random % (end - first)) * bytes};
  return HvaRange{begin, begin + bytes};
}

absl::StatusOr<ChurnOutcome> HugePageChurn::Collapse(const RamSlot& slot, HvaRange block) {
  const Gfn gfn = GfnOf(slot.gpa + (block.begin - slot.hva));
  const GfnRange gfns{gfn, gfn + (block.size() >> kPageShift)};
  Reader reader(mmu_.readers());
  if (mmu_.range_faults().FaultIn(reader, gfns, Access::kWrite).outcome !=
      FaultInOutcome::kMapped) {
    return ChurnOutcome::kDeclined;  // its memslot is deleted at this moment
  }
  // The kernel does not collapse pages that userfaultfd has write-protected.
  if (uffd_.WriteProtect(block, false) != UffdOutcome::kDone) return ChurnOutcome::kDeclined;
  const bool advised = huge_pages_ == HugePages::kThp;
  if (!advised) {
    if (absl::Status asked = hooked::Madvise(block, MADV_HUGEPAGE); !asked.ok()) return asked;
  }
  const absl::Status collapsed = hooked::Madvise(block, newer::kMadvCollapse);
  if (!advised) {
    if (absl::Status asked = hooked::Madvise(block, MADV_NOHUGEPAGE); !asked.ok()) return asked;
  }
  // The bracket of the collapse has emptied the block in stage-2. If other churn changes the block
  // at the same time, its pages are faulted in later.
  static_cast<void>(mmu_.range_faults().FaultIn(reader, gfns, Access::kRead));
  if (collapsed.ok()) return ChurnOutcome::kDone;
  // Linux gives a file its huge page, which unmaps the 512 small ones, and only then finds out that it
  // does not map a huge page of a file as one where userfaultfd protects writes (EINVAL).
  return absl::IsInvalidArgument(collapsed) && HasOneLeaf(gfn) ? ChurnOutcome::kDone
                                                               : ChurnOutcome::kDeclined;
}

bool HugePageChurn::HasOneLeaf(Gfn block) const {
  rcu::ReadScope rcu;
  const std::optional<Stage2::Leaf> leaf = mmu_.stage2().Lookup(block);
  return leaf.has_value() && leaf->level > 0;
}

absl::StatusOr<ChurnOutcome> HugePageChurn::Split(const RamSlot& slot, HvaRange block) {
  const absl::StatusOr<ChurnOutcome> collapsed = Collapse(slot, block);
  if (!collapsed.ok() || *collapsed == ChurnOutcome::kDeclined) return collapsed;
  const HvaRange page = PageRangeOf(block.begin + block.size() / 2);
  const hooked::Protection protection(page, PROT_READ);
  if (!protection.status().ok()) return protection.status();
  return ChurnOutcome::kDone;
}

}  // namespace underfoot
