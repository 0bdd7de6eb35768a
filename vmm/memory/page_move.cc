#include "vmm/memory/page_move.h"

#include <sched.h>

#include <cerrno>

#include "vmm/hooks/calls.h"

namespace underfoot {

int MovePages(const Userfaultfd& uffd, HvaRange from, Hva to) {
  while (!from.empty()) {
    const ssize_t moved =
        hooks::UffdMove(uffd.fd(), PointerOf(to), PointerOf(from.begin), from.size(), 0);
    uint64_t done = 0;
    if (moved > 0) {
      done = static_cast<uint64_t>(moved);
    } else if (errno == ENOENT) {
      done = kPageSize;
    } else if (errno == EAGAIN || errno == EINTR) {
      sched_yield();
    } else {
      return errno;
    }
    from.begin += done;
    to += done;
  }
  return 0;
}

}  // namespace underfoot
