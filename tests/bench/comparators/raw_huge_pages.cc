#include "tests/bench/comparators/raw_huge_pages.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "mmu/base/check.h"
#include "tests/bench/cpus.h"
#include "vmm/base/backing.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/ram/aligned_mapping.h"

namespace underfoot::bench {
namespace {

constexpr unsigned kHuge2M = 21u << 26;  // MFD_HUGE_2MB

absl::StatusOr<HvaRange> Mapped(uint64_t bytes, int flags, int fd) {
  void* const base = MapAligned(bytes, kBlockBytes, flags, fd);
  if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of huge pages");
  return HvaRange{HvaOf(base), HvaOf(base) + bytes};
}

}  // namespace

absl::StatusOr<std::shared_ptr<RawHugePages>> RawHugePages::Create(How how, uint64_t pages,
                                                                   int cpu) {
  UniqueFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!uffd.valid()) return absl::ErrnoToStatus(errno, "userfaultfd is not allowed; run as root");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = how == How::kMoved ? newer::kUffdFeatureMove : UFFD_FEATURE_MINOR_HUGETLBFS;
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0) return absl::ErrnoToStatus(errno, "UFFDIO_API");
  UniqueFd stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return absl::ErrnoToStatus(errno, "eventfd");
  std::shared_ptr<RawHugePages> self(new RawHugePages(how, std::move(uffd), std::move(stop)));
  if (absl::Status mapped = self->Map(pages); !mapped.ok()) return mapped;
  if (absl::Status registered = self->Register(); !registered.ok()) return registered;
  self->handler_ = std::thread([raw = self.get(), cpu] { raw->Serve(cpu); });
  if (how == How::kMoved) self->filler_ = std::thread([raw = self.get()] { raw->Fill(); });
  return self;
}

absl::Status RawHugePages::Map(uint64_t pages) {
  const uint64_t bytes = pages * kPageSize;
  blocks_ = bytes / kBlockBytes;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (how_ == How::kContinued) {
    file_ = UniqueFd(memfd_create("bench", MFD_CLOEXEC | MFD_HUGETLB | kHuge2M));
    if (!file_.valid() || fallocate(file_.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
      return absl::ErrnoToStatus(errno, "a memfd of huge pages");
    }
    flags = MAP_SHARED;
  }
  const absl::StatusOr<HvaRange> range = Mapped(bytes, flags, file_.get());
  if (!range.ok()) return range.status();
  range_ = *range;
  if (how_ == How::kContinued) return absl::OkStatus();
  const absl::StatusOr<HvaRange> pool = Mapped(bytes, flags, -1);
  if (!pool.ok()) return pool.status();
  pool_ = *pool;
  for (const HvaRange& memory : {range_, pool_}) {
    static_cast<void>(madvise(PointerOf(memory.begin), memory.size(), MADV_HUGEPAGE));  // a hint
  }
  return absl::OkStatus();
}

absl::Status RawHugePages::Register() const {
  uffdio_register request{};
  request.range = {range_.begin.value, range_.size()};
  request.mode = how_ == How::kMoved ? UFFDIO_REGISTER_MODE_MISSING : UFFDIO_REGISTER_MODE_MINOR;
  if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "UFFDIO_REGISTER");
}

RawHugePages::~RawHugePages() {
  stop_.store(true, std::memory_order::relaxed);
  static_cast<void>(eventfd_write(stop_fd_.get(), 1));
  if (handler_.joinable()) handler_.join();
  moved_.fetch_add(blocks_,
                   std::memory_order::release);  // the filler finds work, and then the stop
  moved_.notify_one();
  if (filler_.joinable()) filler_.join();
  for (const HvaRange& memory : {range_, pool_}) {
    if (!memory.empty()) munmap(PointerOf(memory.begin), memory.size());
  }
}

void RawHugePages::Empty() {
  const int result = madvise(PointerOf(range_.begin), range_.size(), MADV_DONTNEED);
  UNDERFOOT_CHECK(result == 0, "MADV_DONTNEED failed", range_.begin.value, errno);
  if (how_ == How::kContinued) return;
  const uint64_t wanted = moved_.load(std::memory_order::acquire) + blocks_;
  for (;;) {
    const uint64_t cleared = cleared_.load(std::memory_order::acquire);
    if (cleared == wanted) return;
    cleared_.wait(cleared, std::memory_order::acquire);
  }
}

Hva RawHugePages::PoolBlock(uint64_t number) const {
  return pool_.begin + number % blocks_ * kBlockBytes;
}

void RawHugePages::Fill() {
  for (uint64_t number = 0;; ++number) {
    for (;;) {
      const uint64_t moved = moved_.load(std::memory_order::acquire);
      if (number < moved + blocks_) break;
      moved_.wait(moved, std::memory_order::acquire);
    }
    if (stop_.load(std::memory_order::relaxed)) return;
    const int result = madvise(PointerOf(PoolBlock(number)), kBlockBytes, MADV_POPULATE_WRITE);
    UNDERFOOT_CHECK(result == 0, "no memory for a benchmark", number, errno);
    cleared_.store(number + 1, std::memory_order::release);
    cleared_.notify_all();
  }
}

void RawHugePages::BringIn(Hva block) {
  if (how_ == How::kContinued) {
    uffdio_continue request{};
    request.range = {block.value, kBlockBytes};
    const int result = ioctl(uffd_.get(), UFFDIO_CONTINUE, &request);
    UNDERFOOT_CHECK(result == 0 || errno == EEXIST, "UFFDIO_CONTINUE failed", block.value, errno);
    return;
  }
  const uint64_t number = moved_.load(std::memory_order::relaxed);
  while (cleared_.load(std::memory_order::acquire) == number) {
    cleared_.wait(number, std::memory_order::acquire);
  }
  newer::UffdioMove move{block.value, PoolBlock(number).value, kBlockBytes, 0, 0};
  const int result = ioctl(uffd_.get(), newer::kUffdioMove, &move);
  UNDERFOOT_CHECK(result == 0 || errno == EEXIST, "UFFDIO_MOVE failed", block.value, errno);
  if (result != 0) return;
  moved_.store(number + 1, std::memory_order::release);
  moved_.notify_one();
}

void RawHugePages::Serve(int cpu) {
  const Pinned pinned(cpu);
  for (;;) {
    std::array<pollfd, 2> fds{{{uffd_.get(), POLLIN, 0}, {stop_fd_.get(), POLLIN, 0}}};
    static_cast<void>(poll(fds.data(), fds.size(), -1));
    if (fds[1].revents != 0) return;
    uffd_msg message{};
    if (read(uffd_.get(), &message, sizeof(message)) != sizeof(message)) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    BringIn({message.arg.pagefault.address & ~(kBlockBytes - 1)});
  }
}

}  // namespace underfoot::bench
