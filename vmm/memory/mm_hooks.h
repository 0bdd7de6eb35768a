// The strict source: everything this process itself does to the host memory of the guest goes
// through here, as Begin, the call, End (I2).
//
// Thread safety: any thread, outside of read sections. A call may be held up by the reader of
// userfaultfd events, never by a page-in.

#ifndef UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_
#define UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "mmu/notifier.h"
#include "mmu/types.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class MmHooks {
 public:
  MmHooks(Notifier& notifier, Userfaultfd& uffd, ExpectedEvents& expected)
      : notifier_(notifier), uffd_(uffd), expected_(expected) {}

  // madvise(2); any advice is taken to drop the pages.
  [[nodiscard]] absl::Status Madvise(HvaRange range, int advice);

  // fallocate(2) with FALLOC_FL_PUNCH_HOLE of `fd` at `offset`, which is mapped at `range`.
  [[nodiscard]] absl::Status PunchHole(int fd, uint64_t offset, HvaRange range);

  // UFFDIO_WRITEPROTECT: the next write to each page is a fault.
  [[nodiscard]] absl::Status WriteProtect(HvaRange range);

  // munmap(2).
  [[nodiscard]] absl::Status Munmap(HvaRange range);

  // mprotect(2) to `protection` for as long as it lives: one bracket around both changes, so that
  // no translation exists meanwhile. A vCPU that runs into it leaves KVM_RUN with EFAULT and waits
  // here.
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
    BracketToken token_;
    absl::Status status_;
  };

  // Counts protections taken and lifted: odd steps need no lock to be told from even ones by a
  // caller that compares with what it saw last.
  uint32_t protection_epoch() const { return protection_epoch_.load(kAcquire); }
  // Returns when no protection is in force.
  void WaitForNoProtection() const;

 private:
  template <class Call>
  absl::Status Bracketed(Invalidation invalidation, bool raises_event, const char* what,
                         const Call& call);

  Notifier& notifier_;
  Userfaultfd& uffd_;
  ExpectedEvents& expected_;
  // Pairs with: each other's loads in WaitForNoProtection and protection_epoch. Without it: a vCPU
  // that ran into a protection finds neither it nor its end, and takes the EFAULT for a real one.
  std::atomic<uint32_t> protections_{0};
  std::atomic<uint32_t> protection_epoch_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_MM_HOOKS_H_
