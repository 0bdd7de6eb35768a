#include "vmm/sources/hooks/hooked_calls.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/base/unique_fd.h"
#include "vmm/hooks/calls.h"
#include "vmm/sources/hooks/page_move.h"

namespace underfoot::hooked {
namespace {

// EINTR is handled here, once. EAGAIN is an outcome: what the kernel lacks it may lack for ever.
template <class Call>
int ErrorOf(const Call& call, int tries = 1) {
  while (!call()) {
    const bool again = errno == EAGAIN && --tries > 0;
    if (errno != EINTR && !again) return errno;
    sched_yield();
  }
  return 0;
}

template <class Call>
absl::Status Outcome(const char* what, HvaRange range, const Call& call, int tries = 1) {
  const int error = ErrorOf(call, tries);
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("%s of hva [0x%x, 0x%x)", what, range.begin.value, range.end.value));
}

}  // namespace

absl::Status Madvise(HvaRange range, int advice) {
  return Outcome("madvise", range,
                 [&] { return hooks::Madvise(PointerOf(range.begin), range.size(), advice) == 0; });
}

absl::Status ProcessMadvise(std::span<const HvaRange> ranges, int advice) {
  if (ranges.empty()) return absl::OkStatus();
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self.valid()) return absl::ErrnoToStatus(errno, "pidfd_open of this process");
  std::vector<iovec> parts;
  HvaRange hull = ranges.front();
  for (const HvaRange range : ranges) {
    parts.push_back({PointerOf(range.begin), range.size()});
    hull = {std::min(hull.begin, range.begin), std::max(hull.end, range.end)};
  }
  size_t done = 0;
  return Outcome("process_madvise", hull, [&] {
    // A part of the ranges may be done: on with the rest.
    while (done < parts.size()) {
      ssize_t bytes =
          hooks::ProcessMadvise(self.get(), &parts[done], parts.size() - done, advice, 0);
      if (bytes < 0) return false;
      for (; done < parts.size() && static_cast<size_t>(bytes) >= parts[done].iov_len; ++done) {
        bytes -= static_cast<ssize_t>(parts[done].iov_len);
      }
      if (bytes == 0) continue;
      parts[done].iov_base = static_cast<char*>(parts[done].iov_base) + bytes;
      parts[done].iov_len -= static_cast<size_t>(bytes);
    }
    return true;
  });
}

absl::Status PunchHole(int fd, uint64_t offset, uint64_t bytes) {
  const int error = ErrorOf([&] {
    return hooks::Fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0;
  });
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("fallocate(PUNCH_HOLE) of descriptor %d at [0x%x, 0x%x)", fd, offset,
                             offset + bytes));
}

absl::Status Munmap(HvaRange range) {
  return Outcome("munmap", range,
                 [&] { return hooks::Munmap(PointerOf(range.begin), range.size()) == 0; });
}

absl::Status Mremap(HvaRange from, Hva to, int flags) {
  return Outcome("mremap", from, [&] {
    return hooks::Mremap(PointerOf(from.begin), from.size(), from.size(),
                         flags | MREMAP_MAYMOVE | MREMAP_FIXED, PointerOf(to)) != MAP_FAILED;
  });
}

absl::Status WriteProtect(const Userfaultfd& uffd, HvaRange range, bool protect) {
  const uint64_t mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  const auto call = [&] {
    return hooks::UffdWriteProtect(uffd.fd(), PointerOf(range.begin), range.size(), mode) == 0;
  };
  return Outcome("UFFDIO_WRITEPROTECT", range, call, /*tries=*/10000);  // until an event is read
}

absl::StatusOr<std::vector<HvaRange>> TakeWritten(const Pagemap& pagemap, HvaRange range) {
  return pagemap.Written(range, [](int fd, newer::PagemapScan* scan) {
    scan->flags = newer::kPagemapScanProtect;
    return hooks::PagemapScan(fd, scan);
  });
}

absl::Status Move(const Userfaultfd& uffd, HvaRange from, Hva to) {
  return Outcome("UFFDIO_MOVE", from, [&] {
    errno = MovePages(uffd, from, to).error;
    return errno == 0;
  });
}

absl::Status Mprotect(HvaRange range, int protection) {
  return Outcome("mprotect", range, [&] {
    return hooks::Mprotect(PointerOf(range.begin), range.size(), protection) == 0;
  });
}

Protection::Protection(HvaRange range, int protection)
    : range_(range), status_(Mprotect(range, protection)) {}

Protection::~Protection() {
  const absl::Status lifted = Mprotect(range_, PROT_READ | PROT_WRITE);
  // Guest RAM that cannot be made writable again is lost: nothing sensible is left to do. A range
  // that could not be protected, or not all of it, need not be one that can be.
  UNDERFOOT_CHECK(lifted.ok() || !status_.ok(), "guest RAM stays protected", range_.begin.value,
                  lifted.raw_code());
}

}  // namespace underfoot::hooked
