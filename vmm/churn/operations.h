// Executes one operation of any kind of churn on guest RAM.
//
// What each kind does to the content of pages (I12). The column `duties` of kChurnKinds has which
// source must observe it.
//   discard, punch, foreign   removed, reads as zeroes; only on discardable pages
//   free                      removed or kept, the host decides when; only on discardable pages
//   zap                       memfd: kept; the page table entry is removed
//   pageout, adversary        kept, in swap space
//   cold                      kept, in place
//   collapse, split, merge, compact, migrate   kept, in other frames
//   fork                      kept; a write moves it to another frame while the child lives
//   move                      kept, or lost if a vCPU faulted first; only on discardable pages
//   remap                     kept; accesses wait while the mapping is away
//   wp                        kept; the next write faults
//   protect                   kept; writes wait during the protection
//   memslot                   kept; the VMM performs the accesses meanwhile
//
// With transparent huge pages a quarter of the operations of most kinds acts on a whole block: only then
// does the host take, swap out, protect or migrate the huge page as one. The others split it.
//
// A Linux guest cannot run on while memory is away: its code, its stacks and its page tables may be
// there, and KVM itself writes to some of its pages. For such a guest (MemoryAway::kVcpusOut) memslot,
// remap, protect and split, which protects its block for a while, keep the vCPUs outside for the whole
// time.
//
// Thread safety: any thread, but only one thread at a time for the kinds of one lane.

#ifndef UNDERFOOT_VMM_CHURN_OPERATIONS_H_
#define UNDERFOOT_VMM_CHURN_OPERATIONS_H_

#include <sys/types.h>

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
#include "vmm/audit/coverage.h"
#include "vmm/churn/adversary.h"
#include "vmm/churn/huge_pages.h"
#include "vmm/churn/outcome.h"
#include "vmm/churn/relocation.h"
#include "vmm/churn/schedule.h"
#include "vmm/config/churn_kind.h"
#include "vmm/kvm/kvm.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/mm_hooks.h"

namespace underfoot {

// Whether the guest runs while memory is away.
enum class MemoryAway : uint8_t { kGuestRuns, kVcpusOut };

class ChurnOperations {
 public:
  // `gate`: runs its argument with the vCPUs outside, as changes of KVM's memslots need it. `source`:
  // the page source of `memory`.
  ChurnOperations(GuestMemory& memory, Mmu& mmu, Vm& vm, MmHooks& hooks, Userfaultfd& uffd,
                  Coverage& coverage, GuestPageSource& source, KvmGate gate,
                  MemoryAway away = MemoryAway::kGuestRuns)
      : memory_(memory),
        mmu_(mmu),
        vm_(vm),
        hooks_(hooks),
        uffd_(uffd),
        coverage_(coverage),
        source_(source),
        gate_(std::move(gate)),
        away_(away),
        huge_pages_(mmu, uffd, memory.huge_pages()),
        relocation_(mmu.notifier(), hooks, uffd, source) {}

  // `random` selects the pages.
  [[nodiscard]] absl::StatusOr<ChurnResult> Run(ChurnKind kind, uint64_t random);

  // With `on`, the operation in progress and all later ones shorten their waits.
  void Hurry(bool on) { hurry_.store(on, kRelaxed); }

 private:
  struct Target {
    const RamSlot* slot = nullptr;
    HvaRange range;
    bool to_another_gpa = false;  // for memslot: the slot is moved and not deleted
  };
  enum class Content : uint8_t { kKept, kMayGo };

  std::vector<const RamSlot*> SlotsWith(Content content) const;
  Target Pick(Content content, uint64_t max_pages, uint64_t random) const;
  Target PickPartOrBlock(Content content, uint64_t random) const;
  Target PickBlock(Content content, uint64_t bytes, uint64_t random) const;
  Target TargetOf(ChurnKind kind, uint64_t random) const;
  absl::StatusOr<ChurnOutcome> RunOn(ChurnKind kind, const Target& target,
                                     Coverage::Operation& operation);
  absl::StatusOr<ChurnOutcome> RunSlow(ChurnKind kind, const Target& target)
      ABSL_LOCKS_EXCLUDED(mappings_stay_);
  absl::StatusOr<ChurnOutcome> Relocate(ChurnKind kind, HvaRange range)
      ABSL_LOCKS_EXCLUDED(mappings_stay_);
  absl::Status Call(ChurnKind kind, const Target& target);
  absl::StatusOr<ChurnOutcome> Split(const Target& target) ABSL_LOCKS_EXCLUDED(mappings_stay_);
  // Runs what takes memory away and brings it back.
  absl::Status WhileAway(const std::function<absl::Status()>& absence);
  absl::Status Punch(const Target& target);
  absl::Status Protect(const Target& target);
  absl::Status TakeSlotAway(const Target& target);
  absl::StatusOr<ChurnOutcome> Merge(const Target& target);
  absl::StatusOr<pid_t> StartAdversary();
  static absl::Status DiscardPastTheHooks(const Target& target);

  GuestMemory& memory_;
  Mmu& mmu_;
  Vm& vm_;
  MmHooks& hooks_;
  Userfaultfd& uffd_;
  Coverage& coverage_;
  GuestPageSource& source_;
  const KvmGate gate_;
  const MemoryAway away_;
  HugePageChurn huge_pages_;
  Relocation relocation_;
  // Used by the lane that runs this kind; started when first needed.
  std::optional<Adversary> adversary_;
  // Held during an operation of the slow lane, which needs its range to stay mapped. Order:
  // outermost, except for Machine's. Operations that remove mappings only try to take it.
  absl::Mutex mappings_stay_;
  // Relaxed: the flag only ends a wait early.
  std::atomic<bool> hurry_{false};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OPERATIONS_H_
