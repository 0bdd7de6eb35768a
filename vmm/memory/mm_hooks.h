// The strict source: everything this process itself does to the host memory of the guest, as Begin,
// the call, End (I2).
//
// The calls are those of vmm/hooks: there guest RAM is attached, and whoever makes one of them, by
// a function here or by a libc name, comes through the same bracket. What lies outside of attached
// ranges is left to the kernel.
//
// Thread safety: any thread, outside of read sections. A call may be held up by the reader of
// userfaultfd events, never by a page-in.

#ifndef UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_
#define UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/notifier.h"
#include "mmu/types.h"
#include "vmm/backing.h"
#include "vmm/hooks/underfoot_hooks.h"
#include "vmm/memory/discard_bin.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/host_event.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/protected_ranges.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class MmHooks {
 public:
  // `sink`: told of each call, inside its bracket; nullptr: nobody.
  MmHooks(Notifier& notifier, Userfaultfd& uffd, ExpectedEvents& expected,
          HostEventSink* sink = nullptr);
  // Returns when no call is inside any more.
  ~MmHooks();
  MmHooks(const MmHooks&) = delete;
  MmHooks& operator=(const MmHooks&) = delete;

  // Which pages MADV_FREE has left where they are is noted there: before the first call.
  void NoteLazyFrees(LazyFrees& lazy) { lazy_ = &lazy; }

  // Guest RAM at `range`, registered with the userfaultfd; of a memfd, from `offset` on.
  [[nodiscard]] absl::Status Attach(HvaRange range, Backing backing, int fd = -1,
                                    uint64_t offset = 0) ABSL_LOCKS_EXCLUDED(mutex_);

  // madvise(2); process_madvise(2) of this process.
  [[nodiscard]] absl::Status Madvise(HvaRange range, int advice);
  [[nodiscard]] absl::Status ProcessMadvise(std::span<const HvaRange> ranges, int advice);

  // The content goes, by the cheapest way that there is: a memfd's hole is punched, private pages
  // are moved out. `range` in one attached range.
  [[nodiscard]] absl::Status Discard(HvaRange range);

  // fallocate(2) with FALLOC_FL_PUNCH_HOLE, ftruncate(2).
  [[nodiscard]] absl::Status PunchHole(int fd, uint64_t offset, uint64_t bytes);
  [[nodiscard]] absl::Status Truncate(int fd, uint64_t bytes);

  // munmap(2).
  [[nodiscard]] absl::Status Munmap(HvaRange range);
  // mremap(2) to `to`, which is of the same size; MREMAP_FIXED and MREMAP_MAYMOVE are added.
  [[nodiscard]] absl::Status Mremap(HvaRange from, Hva to, int flags = 0);
  // mremap(2) to fewer bytes, in place.
  [[nodiscard]] absl::Status Shrink(HvaRange range, uint64_t bytes);
  // mmap(2) with MAP_FIXED.
  [[nodiscard]] absl::Status MapOver(HvaRange range, int protection, int flags, int fd,
                                     uint64_t offset);

  // UFFDIO_WRITEPROTECT: the next write to each page is a fault, or (false) is none any more.
  [[nodiscard]] absl::Status WriteProtect(HvaRange range, bool protect = true);
  // Which pages were written (see Pagemap::Written), write-protected again by the same call: the
  // next write to each is noted by the kernel. The userfaultfd's write protection is asynchronous.
  [[nodiscard]] absl::StatusOr<std::vector<HvaRange>> TakeWritten(const Pagemap& pagemap,
                                                                  HvaRange range);
  // UFFDIO_MOVE of anonymous pages; absent ones stay absent. `to` is registered with `uffd`.
  [[nodiscard]] absl::Status Move(const Userfaultfd& uffd, HvaRange from, Hva to);

  // mprotect(2). What loses a permission has no translation until it has PROT_WRITE again.
  [[nodiscard]] absl::Status Mprotect(HvaRange range, int protection);

  // mprotect(2) to `protection` for as long as it lives. A vCPU that runs into it leaves KVM_RUN
  // with EFAULT and waits here.
  class Protection {
   public:
    Protection(MmHooks& hooks, HvaRange range, int protection);
    ~Protection();
    Protection(const Protection&) = delete;
    Protection& operator=(const Protection&) = delete;

    const absl::Status& status() const { return status_; }

   private:
    MmHooks& hooks_;
    const HvaRange range_;
    absl::Status status_;
  };

  // Says that the mapping of `range` will be away and come back while it lives: nothing is brought
  // in meanwhile, and a vCPU that runs into the hole waits as for a protection.
  class Absence {
   public:
    Absence(MmHooks& hooks, HvaRange range);
    ~Absence();
    Absence(const Absence&) = delete;
    Absence& operator=(const Absence&) = delete;

   private:
    MmHooks& hooks_;
    BracketToken token_;
  };

  // Counts protections taken and lifted, to be compared with what one saw last.
  uint32_t protection_epoch() const { return protected_.epoch(); }
  // Returns when no protection is in force, or one was lifted.
  void WaitForProtectionChange() const { protected_.WaitForChange(); }

 private:
  // An attached range; `hooks` comes back in the callbacks.
  struct Ram {
    MmHooks* hooks;
    HvaRange range;
    Backing backing;
    int fd;
    uint64_t offset;
    uint64_t handle;
  };

  void OnBegin(underfoot_change& change);
  void OnEnd(const Ram& ram, underfoot_change& change);
  void NoteWhatIsLazy(const underfoot_change& change, bool was_lazy);
  void OnProtected(underfoot_change& change, BracketToken token);
  const Ram* Find(HvaRange range) const ABSL_LOCKS_EXCLUDED(mutex_);

  Notifier& notifier_;
  Userfaultfd& uffd_;
  ExpectedEvents& expected_;
  HostEventSink* const sink_;
  LazyFrees* lazy_ = nullptr;
  ProtectedRanges protected_;
  // Null where the kernel cannot move pages.
  std::unique_ptr<DiscardBin> bin_;
  // Guards: the list. Order: innermost; an element stays where it is and as it is.
  mutable absl::Mutex mutex_;
  std::deque<Ram> rams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_
