// The dirty log of guest RAM: the union of three logs, each of which sees what the others do not.
//
//   KVM's                a vCPU writes through KVM's page tables
//   our memslots'        this program writes through stage-2 or a pfn cache (Mmu::CollectDirty)
//   the log of RAM       this program writes without a translation: by hva while a memslot is away,
//                        into the system area, or by filling a discarded page with zeroes
//
// A log goes with its memslot. Its pages are therefore moved into the log of RAM first:
//
//   slot goes from KVM   take KVM's log ──► log of RAM; delete or move      vCPUs are out, mutex_
//   slot goes from ours  DeleteMemslotCollecting ─────► log of RAM          mutex_
//   collect              for each slot: take ours, take KVM's               mutex_
//                        then take the log of RAM, then wait for readers
//
// No page is lost between them. mutex_ makes each line one step for the slot: pages that leave a
// log before the collection comes to the slot are in the log of RAM, and the collection takes that
// log last.
//
// Thread safety: any thread calls Mark. The owner of a slot changes it (see GuestMemory). One
// thread at a time calls Collect.
// Units: pages of 4 KiB; page n of a collection is gfn n, since RAM begins at gpa 0.

#ifndef UNDERFOOT_VMM_RAM_RAM_LOG_H_
#define UNDERFOOT_VMM_RAM_RAM_LOG_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/memslot.h"
#include "mmu/mmu.h"

namespace underfoot {

class RamLog {
 public:
  // Vm::TakeDirtyLog.
  using TakeKvmLog =
      absl::FunctionRef<absl::StatusOr<std::vector<uint64_t>>(uint32_t slot, uint64_t pages)>;
  enum class KvmSlot : uint8_t { kThere, kAway };

  struct Collection {
    DirtyBitmap pages;
    // How many of them each log reported; one page may be in several.
    uint64_t from_kvm = 0;
    uint64_t from_memslots = 0;
    uint64_t from_ram = 0;
  };

  // `slots`: the gfns of the slot with id 0, 1, ...; together all of RAM. None is in KVM yet.
  RamLog(HvaRange ram, std::vector<GfnRange> slots);
  RamLog(const RamLog&) = delete;
  RamLog& operator=(const RamLog&) = delete;

  // Records that the content of `range` changes; what lies outside of RAM is ignored. A writer that
  // is in a read section on the page calls it anywhere in the section. Another writer calls it
  // after its last byte: a collection may take an earlier mark before that byte is there.
  void Mark(HvaRange range);

  // Runs `change`, which adds, deletes, moves or changes the flags of the slot in KVM; afterwards it
  // is there or not. If KVM's log of the slot cannot be taken, `change` is not run. All vCPUs are
  // outside of KVM_RUN.
  [[nodiscard]] absl::Status ChangeInKvm(uint32_t slot, TakeKvmLog take, KvmSlot afterwards,
                                         absl::FunctionRef<absl::Status()> change)
      ABSL_LOCKS_EXCLUDED(mutex_);
  [[nodiscard]] absl::Status DeleteMemslot(uint32_t slot, Mmu& mmu) ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns the pages that were written since the last collection, in any of the logs, with the
  // semantics of Mmu::CollectDirty. If a log cannot be taken, the others get their pages back.
  [[nodiscard]] absl::StatusOr<Collection> Collect(Mmu& mmu, TakeKvmLog take)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Puts pages back: the next collection reports them again.
  void GiveBack(const DirtyBitmap& pages, Mmu& mmu);

 private:
  absl::Status CollectSlot(uint32_t slot, Mmu& mmu, TakeKvmLog take, std::vector<uint64_t>& all,
                           Collection& counts) ABSL_LOCKS_EXCLUDED(mutex_);
  void Keep(uint32_t slot, const DirtyBitmap& pages);

  const HvaRange ram_;
  const std::vector<GfnRange> slots_;
  DirtyLog log_;  // of RAM

  // Guards: which slots KVM has, and the moves of pages from one log to another. Order: after
  // Machine::mutex_, before the locks of mmu/. Held across ioctls of KVM that touch no guest memory,
  // and across a collection or a deletion in the Mmu, which wait for readers.
  absl::Mutex mutex_;
  std::vector<KvmSlot> in_kvm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_RAM_LOG_H_
