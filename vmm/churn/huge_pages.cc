#include "vmm/churn/huge_pages.h"

#include <sys/mman.h>

#include "absl/status/status.h"
#include "mmu/reader.h"
#include "vmm/memory/kernel_constants.h"

namespace underfoot {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{2} << 20;

}  // namespace

std::optional<HvaRange> HugePageChurn::BlockIn(const RamSlot& slot, uint64_t random) {
  const uint64_t first = (slot.hva.value + kBlockBytes - 1) / kBlockBytes;
  const uint64_t end = (slot.hva.value + slot.bytes) / kBlockBytes;
  if (first >= end) return std::nullopt;
  const Hva begin{(first + random % (end - first)) * kBlockBytes};
  return HvaRange{begin, begin + kBlockBytes};
}

absl::StatusOr<ChurnOutcome> HugePageChurn::Collapse(const RamSlot& slot, HvaRange block) {
  const Gfn gfn = GfnOf(slot.gpa + (block.begin - slot.hva));
  {
    Reader reader(mmu_.readers());
    const GfnRange gfns{gfn, gfn + (block.size() >> kPageShift)};
    if (mmu_.range_faults().FaultIn(reader, gfns, Access::kWrite).outcome !=
        FaultOutcome::kMapped) {
      return ChurnOutcome::kDeclined;  // its memslot is away
    }
  }
  // What is write-protected by userfaultfd is not collapsed.
  if (uffd_.WriteProtect(block, false) != UffdOutcome::kDone) return ChurnOutcome::kDeclined;
  if (absl::Status asked = hooks_.Madvise(block, MADV_HUGEPAGE); !asked.ok()) return asked;
  const absl::Status collapsed = hooks_.Madvise(block, kMadvCollapse);
  if (absl::Status asked = hooks_.Madvise(block, MADV_NOHUGEPAGE); !asked.ok()) return asked;
  return collapsed.ok() ? ChurnOutcome::kDone : ChurnOutcome::kDeclined;
}

absl::StatusOr<ChurnOutcome> HugePageChurn::Split(const RamSlot& slot, HvaRange block) {
  const absl::StatusOr<ChurnOutcome> collapsed = Collapse(slot, block);
  if (!collapsed.ok() || *collapsed == ChurnOutcome::kDeclined) return collapsed;
  const HvaRange page = PageRangeOf(block.begin + block.size() / 2);
  const MmHooks::Protection protection(hooks_, page, PROT_READ);
  if (!protection.status().ok()) return protection.status();
  return ChurnOutcome::kDone;
}

}  // namespace underfoot
