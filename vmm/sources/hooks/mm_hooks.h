// The strict source: it brackets every change that this process itself makes to the host memory of
// the guest (Begin, the call, End; I2).
//
// The calls are those of vmm/hooks: there guest RAM is attached, and a call that any code makes, by
// hooked_calls.h or by a libc name, has the same bracket. What lies outside of attached ranges is
// left to the kernel.
//
// Thread safety: any thread, outside of read sections. A call may be held up by the reader of
// userfaultfd events, never by a page-in.

#ifndef UNDERFOOT_VMM_SOURCES_HOOKS_MM_HOOKS_H_
#define UNDERFOOT_VMM_SOURCES_HOOKS_MM_HOOKS_H_

#include <cstdint>
#include <deque>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"
#include "mmu/notifier.h"
#include "vmm/base/backing.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/host_event.h"
#include "vmm/evidence/lazy_frees.h"
#include "vmm/hooks/underfoot_hooks.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/discard_bin.h"
#include "vmm/sources/hooks/protected_ranges.h"

namespace underfoot {

class MmHooks {
 public:
  // `sink` receives each call, inside its bracket; nullptr: calls are not reported. `lazy`: where
  // the hooks note which pages MADV_FREE has left in place; nullptr: nothing is noted.
  MmHooks(Notifier& notifier, Userfaultfd& uffd, ExpectedEvents& expected,
          HostEventSink* sink = nullptr, LazyFrees* lazy = nullptr);
  // Returns when no call is inside any more.
  ~MmHooks();
  MmHooks(const MmHooks&) = delete;
  MmHooks& operator=(const MmHooks&) = delete;

  // Guest RAM at `range`, registered with the userfaultfd; of a memfd, from `offset` on.
  [[nodiscard]] absl::Status Attach(HvaRange range, Backing backing, int fd = -1,
                                    uint64_t offset = 0, HugePages huge_pages = HugePages::kOff)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // The content goes, by the cheapest way that there is: a memfd's hole is punched, private pages
  // are moved out. Of hugetlb memory `range` is whole huge pages. `range` in one attached range. Returns how many bytes may have gone; 0: no page
  // was there, and no source has anything to report.
  [[nodiscard]] absl::StatusOr<uint64_t> Discard(HvaRange range);

  // While an object of this class exists, the mapping of `range` may be moved away and back.
  // Meanwhile no page of it is brought in, and a vCPU that accesses the hole waits as it does for a
  // protection.
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

  // A number that changes whenever a protection is made or lifted.
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
    HugePages huge_pages;
    uint64_t handle;
  };

  void OnBegin(const Ram& ram, underfoot_change& change);
  void OnEnd(const Ram& ram, underfoot_change& change);
  void LiftWhatWasReplaced(const underfoot_change& change);
  static Invalidation InvalidationOf(const Ram& ram, const underfoot_change& change);
  void NoteWhatIsLazy(const underfoot_change& change, bool was_lazy);
  void OnProtected(underfoot_change& change, BracketToken token);
  const Ram* Find(HvaRange range) const ABSL_LOCKS_EXCLUDED(mutex_);

  Notifier& notifier_;
  Userfaultfd& uffd_;
  ExpectedEvents& expected_;
  HostEventSink* const sink_;
  LazyFrees* const lazy_;
  ProtectedRanges protected_;
  // Null where the kernel cannot move pages.
  std::unique_ptr<DiscardBin> bin_;
  // Guards: the list. Order: innermost. An element is never moved or changed after it was added.
  mutable absl::Mutex mutex_;
  std::deque<Ram> rams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_HOOKS_MM_HOOKS_H_
