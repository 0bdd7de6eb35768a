// One operation of each kind of churn on guest RAM.
//
// What each does to content (I12) and which source must see it:
//   discard   gone, reads as zeroes; discardable pages only     hooks
//   zap       memfd: kept, the page table entry goes            hooks
//   punch     gone, reads as zeroes; discardable pages only     hooks
//   wp        kept, the next write faults                       hooks
//   protect   kept, writes wait while it lasts                  hooks
//   memslot   kept, accesses are carried out by the VMM         the memslot update itself
//   foreign   gone or kept, as discard and zap; discardable     userfaultfd
//
// Thread safety: any thread; kMemslot from one at a time.

#ifndef UNDERFOOT_VMM_CHURN_OPERATIONS_H_
#define UNDERFOOT_VMM_CHURN_OPERATIONS_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "vmm/churn_kind.h"
#include "vmm/coverage/coverage.h"
#include "vmm/kvm.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/mm_hooks.h"

namespace underfoot {

class ChurnOperations {
 public:
  // `gate`: for changes of KVM's memslots.
  ChurnOperations(GuestMemory& memory, Mmu& mmu, Vm& vm, MmHooks& hooks, Coverage& coverage,
                  KvmGate gate)
      : memory_(memory),
        mmu_(mmu),
        vm_(vm),
        hooks_(hooks),
        coverage_(coverage),
        gate_(std::move(gate)) {}

  // `random` decides about the pages.
  [[nodiscard]] absl::Status Run(ChurnKind kind, uint64_t random);

 private:
  struct Target {
    const RamSlot* slot;
    HvaRange range;
  };
  enum class Content : uint8_t { kKept, kMayGo };

  Target Pick(Content content, uint64_t max_pages, uint64_t random) const;
  Target TargetOf(ChurnKind kind, uint64_t random) const;
  absl::Status RunOn(ChurnKind kind, const Target& target);
  absl::Status Punch(const Target& target);
  absl::Status Protect(const Target& target);
  absl::Status DeleteAndAddSlot(const RamSlot& slot);
  static absl::Status DiscardPastTheHooks(const Target& target);

  GuestMemory& memory_;
  Mmu& mmu_;
  Vm& vm_;
  MmHooks& hooks_;
  Coverage& coverage_;
  const KvmGate gate_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OPERATIONS_H_
