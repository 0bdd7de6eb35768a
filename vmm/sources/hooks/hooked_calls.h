// The hooked calls (vmm/hooks) as the machine makes them: with strong types and an absl::Status
// that names the call and its range. EINTR is retried. Of attached guest RAM each call is a
// bracket, as it is when any other code makes it by its libc name (mm_hooks.h).
//
// Thread safety: any thread, outside of read sections. A call may be held up by the reader of
// userfaultfd events, never by a page-in.

#ifndef UNDERFOOT_VMM_SOURCES_HOOKS_HOOKED_CALLS_H_
#define UNDERFOOT_VMM_SOURCES_HOOKS_HOOKED_CALLS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot::hooked {

// madvise(2); process_madvise(2) of this process.
[[nodiscard]] absl::Status Madvise(HvaRange range, int advice);
[[nodiscard]] absl::Status ProcessMadvise(std::span<const HvaRange> ranges, int advice);

// fallocate(2) with FALLOC_FL_PUNCH_HOLE.
[[nodiscard]] absl::Status PunchHole(int fd, uint64_t offset, uint64_t bytes);

// munmap(2).
[[nodiscard]] absl::Status Munmap(HvaRange range);
// mremap(2) to `to`, which is of the same size; MREMAP_FIXED and MREMAP_MAYMOVE are added.
[[nodiscard]] absl::Status Mremap(HvaRange from, Hva to, int flags = 0);

// mprotect(2). A page that loses a permission has no translation until it has PROT_WRITE again.
[[nodiscard]] absl::Status Mprotect(HvaRange range, int protection);

// UFFDIO_WRITEPROTECT of memory that is registered with `uffd`. With `protect`, the next write to
// each page faults; without it, writes no longer fault.
[[nodiscard]] absl::Status WriteProtect(const Userfaultfd& uffd, HvaRange range,
                                        bool protect = true);
// Which pages were written (see Pagemap::Written), write-protected again by the same call: the next
// write to each is noted by the kernel. The userfaultfd's write protection is asynchronous.
[[nodiscard]] absl::StatusOr<std::vector<HvaRange>> TakeWritten(const Pagemap& pagemap,
                                                                HvaRange range);
// UFFDIO_MOVE of anonymous pages; absent ones stay absent. `to` is registered with `uffd`.
[[nodiscard]] absl::Status Move(const Userfaultfd& uffd, HvaRange from, Hva to);

// mprotect(2) to `protection` for as long as it lives. A vCPU that runs into it leaves KVM_RUN with
// EFAULT and waits in MmHooks::WaitForProtectionChange.
class Protection {
 public:
  Protection(HvaRange range, int protection);
  ~Protection();
  Protection(const Protection&) = delete;
  Protection& operator=(const Protection&) = delete;

  const absl::Status& status() const { return status_; }

 private:
  const HvaRange range_;
  absl::Status status_;
};

}  // namespace underfoot::hooked

#endif  // UNDERFOOT_VMM_SOURCES_HOOKS_HOOKED_CALLS_H_
