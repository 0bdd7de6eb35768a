#include "tests/bench/comparators/raw_uffd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "mmu/base/check.h"
#include "tests/bench/cpus.h"
#include "vmm/base/thread_priority.h"

namespace underfoot::bench {

absl::StatusOr<std::unique_ptr<RawUffdMemory>> RawUffdMemory::Create(uint64_t pages,
                                                                     Events events) {
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "userfaultfd is not allowed; run as root");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = events == Events::kRemovalsToo ? UFFD_FEATURE_EVENT_REMOVE : 0;
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) return absl::ErrnoToStatus(errno, "UFFDIO_API");
  UniqueFd stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return absl::ErrnoToStatus(errno, "eventfd");
  std::unique_ptr<RawUffdMemory> self(new RawUffdMemory(pages, std::move(fd), std::move(stop)));
  uffdio_register request{};
  request.range = {self->memory_.range().begin.value, self->memory_.range().size()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(self->fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return absl::ErrnoToStatus(errno, "UFFDIO_REGISTER");
  }
  return self;
}

RawUffdMemory::~RawUffdMemory() {
  static_cast<void>(eventfd_write(stop_.get(), 1));
  for (std::thread& thread : threads_) thread.join();
}

int RawUffdMemory::CopyZeroesTo(HvaRange pages) {
  UNDERFOOT_CHECK(pages.size() <= zeroes_.range().size(), "more pages than a copy has zeroes for",
                  pages.size(), kMostPages);
  uffdio_copy copy{};
  copy.dst = pages.begin.value;
  copy.src = zeroes_.range().begin.value;
  copy.len = pages.size();
  if (ioctl(fd_.get(), UFFDIO_COPY, &copy) == 0) return 0;
  UNDERFOOT_CHECK(errno == EEXIST || errno == EAGAIN, "UFFDIO_COPY failed", pages.begin.value,
                  errno);
  return errno;
}

bool RawUffdMemory::RefusesCopies(uint64_t present) {
  return CopyZeroesTo(memory_.Pages(present, 1)) == EAGAIN;
}

void RawUffdMemory::Serve(std::optional<int> cpu, uint64_t pages) {
  threads_.emplace_back([this, cpu, pages] { Main(cpu, pages); });
}

void RawUffdMemory::Main(std::optional<int> cpu, uint64_t pages) {
  std::optional<Pinned> pinned;
  if (cpu.has_value()) {
    pinned.emplace(*cpu);
    BatchThisThread();
  } else {
    RaiseThisThread();
  }
  const uint64_t bytes = pages * kPageSize;
  for (;;) {
    std::array<pollfd, 2> fds{{{fd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    static_cast<void>(poll(fds.data(), fds.size(), -1));
    if (fds[1].revents != 0) return;
    uffd_msg message{};
    if (read(fd_.get(), &message, sizeof(message)) != sizeof(message)) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    // The memory begins at a window.
    const uint64_t offset = message.arg.pagefault.address - memory_.range().begin.value;
    static_cast<void>(
        CopyZeroesTo(PageRangeOf(memory_.range().begin + offset / bytes * bytes, pages)));
  }
}

}  // namespace underfoot::bench
