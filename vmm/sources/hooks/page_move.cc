#include "vmm/sources/hooks/page_move.h"

#include <sched.h>

#include <cerrno>

#include "vmm/hooks/calls.h"

namespace underfoot {

namespace {

// A page is locked, or an event of this mm waits for its reader. Both may last.
constexpr int kTries = 1000;

}  // namespace

MovedPages MovePages(const Userfaultfd& uffd, HvaRange from, Hva to) {
  MovedPages result;
  int tries = 0;  // since the last progress
  while (!from.empty()) {
    const ssize_t moved =
        hooks::UffdMove(uffd.fd(), PointerOf(to), PointerOf(from.begin), from.size(), 0);
    uint64_t done = 0;
    if (moved > 0) {
      done = static_cast<uint64_t>(moved);
      result.bytes += done;
    } else if (errno == ENOENT) {
      done = kPageSize;
    } else if (errno == EINTR || (errno == EAGAIN && ++tries < kTries)) {
      sched_yield();
    } else {
      result.error = errno;
      return result;
    }
    if (done != 0) tries = 0;
    from.begin += done;
    to += done;
  }
  return result;
}

}  // namespace underfoot
