// One operation of each kind of churn on guest RAM.
//
// What each does to content (I12); which source must see it is a column of kChurnKinds:
//   discard, punch, foreign   gone, reads as zeroes; discardable pages only
//   free                      gone or kept, the host decides when; discardable pages only
//   zap                       memfd: kept, the page table entry goes
//   pageout, adversary        kept, in swap space
//   cold                      kept, where it is
//   collapse, split, merge, compact, migrate   kept, in other frames
//   fork                      kept; a write moves it to another frame while the child lives
//   move                      kept, or gone where a vCPU was faster; discardable pages only
//   remap                     kept, accesses wait while it is away
//   wp                        kept, the next write faults
//   protect                   kept, writes wait while it lasts
//   memslot                   kept, accesses are carried out by the VMM
//
// Thread safety: any thread; the kinds of one lane from one thread at a time.

#ifndef UNDERFOOT_VMM_CHURN_OPERATIONS_H_
#define UNDERFOOT_VMM_CHURN_OPERATIONS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "vmm/churn/adversary.h"
#include "vmm/churn/huge_pages.h"
#include "vmm/churn/outcome.h"
#include "vmm/churn/relocation.h"
#include "vmm/churn/schedule.h"
#include "vmm/churn_kind.h"
#include "vmm/coverage/coverage.h"
#include "vmm/kvm.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class ChurnOperations {
 public:
  // `gate`: for changes of KVM's memslots; `page_ins`: of `memory`.
  ChurnOperations(GuestMemory& memory, Mmu& mmu, Vm& vm, MmHooks& hooks, Userfaultfd& uffd,
                  Coverage& coverage, PageInGate& page_ins, KvmGate gate)
      : memory_(memory),
        mmu_(mmu),
        vm_(vm),
        hooks_(hooks),
        coverage_(coverage),
        gate_(std::move(gate)),
        huge_pages_(mmu, hooks, uffd),
        relocation_(mmu.notifier(), hooks, uffd, page_ins) {}

  // `random` decides about the pages.
  [[nodiscard]] absl::StatusOr<ChurnResult> Run(ChurnKind kind, uint64_t random);

  // An operation that takes its time ends soon, and so does each one from here on.
  void Hurry(bool on) { hurry_.store(on, kRelaxed); }

 private:
  struct Target {
    const RamSlot* slot = nullptr;
    HvaRange range;
    bool to_another_gpa = false;  // of a memslot: moved, and not deleted
  };
  enum class Content : uint8_t { kKept, kMayGo };

  std::vector<const RamSlot*> SlotsWith(Content content) const;
  Target Pick(Content content, uint64_t max_pages, uint64_t random) const;
  Target PickBlock(uint64_t random) const;
  Target TargetOf(ChurnKind kind, uint64_t random) const;
  absl::StatusOr<ChurnOutcome> RunOn(ChurnKind kind, const Target& target);
  absl::StatusOr<ChurnOutcome> RunSlow(ChurnKind kind, const Target& target)
      ABSL_LOCKS_EXCLUDED(mappings_stay_);
  absl::StatusOr<ChurnOutcome> Remap(HvaRange range) ABSL_LOCKS_EXCLUDED(mappings_stay_);
  absl::Status Call(ChurnKind kind, const Target& target);
  absl::Status Punch(const Target& target);
  absl::Status Protect(const Target& target);
  absl::Status TakeSlotAway(const Target& target);
  absl::StatusOr<ChurnOutcome> Merge(const Target& target);
  absl::Status ReclaimFromOutside(HvaRange range);
  static absl::Status DiscardPastTheHooks(const Target& target);

  GuestMemory& memory_;
  Mmu& mmu_;
  Vm& vm_;
  MmHooks& hooks_;
  Coverage& coverage_;
  const KvmGate gate_;
  HugePageChurn huge_pages_;
  Relocation relocation_;
  std::optional<Adversary> adversary_;  // of the lane that runs it; started when first needed
  // Held across an operation of the slow lane, which wants its range mapped all the time. Order:
  // outermost but for Machine's. Only tried by what takes mappings away.
  absl::Mutex mappings_stay_;
  // Relaxed: it only ends a wait early.
  std::atomic<bool> hurry_{false};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OPERATIONS_H_
