#include "tests/memory/pending_event.h"

#include <poll.h>

#include <array>
#include <fstream>
#include <string>

#include "tests/support/wait_until.h"

namespace underfoot::testing {

bool SomethingIsPending(const Userfaultfd& uffd) {
  pollfd fd{uffd.fd(), POLLIN, 0};
  return poll(&fd, 1, 0) == 1 && (fd.revents & POLLIN) != 0;
}

uint64_t PendingFaults(const Userfaultfd& uffd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(uffd.fd()));
  for (std::string word; info >> word;) {
    uint64_t pending = 0;
    if (word == "pending:" && info >> pending) return pending;
  }
  return 0;
}

bool ReadOneEvent(Userfaultfd& uffd) {
  std::array<uffd_msg, 1> message;
  return WaitUntil([&] {
    const absl::StatusOr<size_t> n = uffd.Read(message);
    return n.ok() && *n == 1 && message[0].event != UFFD_EVENT_PAGEFAULT;
  });
}

PendingMadvise::PendingMadvise(const Userfaultfd& uffd, HvaRange range, int advice)
    : thread_([range, advice] { static_cast<void>(ForeignMadvise(range, advice)); }) {
  pending_ = WaitUntil([&] { return SomethingIsPending(uffd); });
}

}  // namespace underfoot::testing
