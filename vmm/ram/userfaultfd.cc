#include "vmm/ram/userfaultfd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/newer_kernels.h"

namespace underfoot {
namespace {

// THREAD_ID: Linux 4.14, older than the others.
constexpr uint64_t kFaultFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
                                    UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                                    UFFD_FEATURE_THREAD_ID;
constexpr uint64_t kMappingFeatures = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;

uint64_t FeaturesOf(const UffdOptions& options) {
  uint64_t features = kFaultFeatures;
  if (options.events != UffdEvents::kNone) features |= kMappingFeatures;
  if (options.events == UffdEvents::kAll) features |= UFFD_FEATURE_EVENT_REMOVE;
  if (options.async_write_protect) features |= newer::kUffdFeatureWpAsync;
  if (options.move) features |= newer::kUffdFeatureMove;
  if (options.page_bytes > kPageSize) {
    features |= UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS;
  }
  return features;
}

// What a kernel that offers `offered` only does not have, and the remedy.
std::string WhatIsMissing(uint64_t needed, uint64_t offered) {
  const uint64_t missing = needed & ~offered;
  if (offered == 0) return absl::StrFormat("the features 0x%x together", needed);
  if ((missing & newer::kUffdFeatureWpAsync) != 0) {
    return "asynchronous write protection (Linux 6.7), which --write-protect async needs, and "
           "--working-set on private memory; leave it out, or use --working-set with --backing "
           "memfd";
  }
  if ((missing & newer::kUffdFeatureMove) != 0) return "UFFDIO_MOVE (Linux 6.8)";
  return absl::StrFormat("the features 0x%x; Linux 5.19 has them all", missing);
}

constexpr char kDevice[] = "/dev/userfaultfd";

// Faults are handled inside the kernel too (KVM's own accesses), so UFFD_USER_MODE_ONLY will not
// do.
absl::StatusOr<UniqueFd> OpenDescriptor() {
  UniqueFd device(open(kDevice, O_RDWR | O_CLOEXEC));
  if (device.valid()) {
    UniqueFd fd(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (fd.valid()) return fd;
  }
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error == EPERM) {
    return absl::ErrnoToStatus(
        error,
        absl::StrFormat("userfaultfd: no right to handle faults of the kernel; run as root, allow "
                        "access to %s, or set sysctl vm.unprivileged_userfaultfd=1",
                        kDevice));
  }
  if (error == ENOSYS) {
    return absl::ErrnoToStatus(error,
                               "userfaultfd: this kernel does not offer it (CONFIG_USERFAULTFD)");
  }
  return ErrnoStatus(error, "userfaultfd");
}

UffdOutcome OutcomeOf(int error) {
  switch (error) {
    case 0:
      return UffdOutcome::kDone;
    case EEXIST:
      return UffdOutcome::kExists;
    case EAGAIN:
      return UffdOutcome::kAgain;
    case EFAULT:
      return UffdOutcome::kNoPage;
    case ENOENT:
    case ESRCH:
    case EINVAL:
      return UffdOutcome::kGone;
    default:
      return UffdOutcome::kFailed;
  }
}

int Ioctl(int fd, unsigned long request, void* argument) {
  for (;;) {
    if (ioctl(fd, request, argument) == 0) return 0;
    if (errno != EINTR) return errno;
  }
}

int EnableApi(int fd, uint64_t features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  return Ioctl(fd, UFFDIO_API, &api);
}

// Of a descriptor whose API was not enabled, which this uses up. 0: unknown.
uint64_t OfferedFeatures(int fd) {
  uffdio_api api{};
  api.api = UFFD_API;
  return Ioctl(fd, UFFDIO_API, &api) == 0 ? api.features : 0;
}

// Never written. Not const: zeroes need no room in the executable.
constexpr uint64_t kZeroPages = 64;
alignas(kPageSize) std::byte g_zeroes[kZeroPages * kPageSize];

// `done` is what the kernel says of a call for several pages: bytes, or a negative error. One that
// ended early says EAGAIN, and bytes.
UffdProgress ProgressOf(int error, int64_t done) {
  if (error == EAGAIN && done > 0) error = 0;
  return {OutcomeOf(error), done > 0 ? static_cast<uint64_t>(done) >> kPageShift : 0};
}

absl::StatusOr<size_t> ReadMessages(int fd, std::span<uffd_msg> messages) {
  for (;;) {
    const ssize_t bytes = read(fd, messages.data(), messages.size_bytes());
    if (bytes >= 0) return static_cast<size_t>(bytes) / sizeof(uffd_msg);
    if (errno == EAGAIN) return size_t{0};
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "userfaultfd: read");
  }
}

}  // namespace

absl::StatusOr<Userfaultfd> Userfaultfd::Open(const UffdOptions& options) {
  const uint64_t needed = FeaturesOf(options);
  const uint64_t forks = options.events == UffdEvents::kNone ? 0 : UFFD_FEATURE_EVENT_FORK;
  absl::StatusOr<UniqueFd> fd = OpenDescriptor();
  if (!fd.ok()) return std::move(fd).status();
  // The kernel reports forks only to a process that may trace (CAP_SYS_PTRACE). Without that the
  // kernel still handles a child's faults; forks are only not counted.
  int error = EnableApi(fd->get(), needed | forks);
  if (error == EPERM) error = EnableApi(fd->get(), needed);
  if (error == EINVAL) {
    return absl::UnimplementedError("userfaultfd: this kernel does not offer " +
                                    WhatIsMissing(needed, OfferedFeatures(fd->get())));
  }
  if (error != 0) {
    return absl::ErrnoToStatus(
        error, absl::StrFormat("userfaultfd: UFFDIO_API with features 0x%x", needed));
  }
  absl::StatusOr<ZeroMapping> zeroes = MapZeroes(options.page_bytes);
  if (!zeroes.ok()) return std::move(zeroes).status();
  return Userfaultfd(*std::move(fd), options, *std::move(zeroes));
}

void UnmapBytes::operator()(void* base) const { static_cast<void>(munmap(base, bytes)); }

absl::StatusOr<Userfaultfd::ZeroMapping> Userfaultfd::MapZeroes(uint64_t bytes) {
  if (bytes <= sizeof(g_zeroes)) return ZeroMapping();
  void* const base =
      mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of zeroes for a huge page");
  ZeroMapping zeroes(base, UnmapBytes{bytes});
  // One page of zeroes stays in the CPU's cache. A huge one does not.
  static_cast<void>(madvise(base, bytes, MADV_NOHUGEPAGE));
  // If a page of the source is absent, the kernel copies to a second huge page first. Of 1 GiB there is
  // none unless another one is free: UFFDIO_COPY answers ENOMEM.
  if (madvise(base, bytes, MADV_POPULATE_READ) != 0) {
    return absl::ErrnoToStatus(errno, "MADV_POPULATE_READ of zeroes for a huge page");
  }
  return zeroes;
}

absl::Status Userfaultfd::Register(HvaRange range, Backing backing) {
  uffdio_register reg{};
  reg.range = {range.begin.value, range.size()};
  reg.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  if (backing == Backing::kMemfd) reg.mode |= UFFDIO_REGISTER_MODE_MINOR;
  if (const int error = Ioctl(fd_.get(), UFFDIO_REGISTER, &reg); error != 0) {
    return absl::ErrnoToStatus(
        error, absl::StrFormat("userfaultfd: UFFDIO_REGISTER of hva [0x%x, 0x%x), %s memory",
                               range.begin.value, range.end.value, BackingName(backing)));
  }
  return absl::OkStatus();
}

UffdProgress Userfaultfd::CopyZeroes(HvaRange pages) {
  uffdio_copy copy{};
  copy.dst = pages.begin.value;
  const bool huge = zeroes_ != nullptr && pages.size() > sizeof(g_zeroes);
  copy.src = HvaOf(huge ? zeroes_.get() : g_zeroes).value;
  copy.len =
      std::min<uint64_t>(pages.size(), huge ? zeroes_.get_deleter().bytes : sizeof(g_zeroes));
  const int error = Ioctl(fd_.get(), UFFDIO_COPY, &copy);
  return ProgressOf(error, copy.copy);
}

UffdProgress Userfaultfd::MoveIn(Hva from, HvaRange pages) {
  newer::UffdioMove move{pages.begin.value, from.value, pages.size(), 0, 0};
  const int error = Ioctl(fd_.get(), newer::kUffdioMove, &move);
  return ProgressOf(error, move.move);
}

UffdProgress Userfaultfd::Continue(HvaRange pages) {
  uffdio_continue request{};
  request.range = {pages.begin.value, pages.size()};
  const int error = Ioctl(fd_.get(), UFFDIO_CONTINUE, &request);
  return ProgressOf(error, request.mapped);
}

UffdOutcome Userfaultfd::WriteProtect(HvaRange range, bool protect) {
  uffdio_writeprotect request{};
  request.range = {range.begin.value, range.size()};
  request.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return OutcomeOf(Ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request));
}

void Userfaultfd::Wake(HvaRange range) {
  uffdio_range request{range.begin.value, range.size()};
  const int error = Ioctl(fd_.get(), UFFDIO_WAKE, &request);
  UNDERFOOT_CHECK(error == 0, "UFFDIO_WAKE failed", range.begin.value, error);
}

void Userfaultfd::KeepReserve() {
  if (events_ == UffdEvents::kNone || reserve_->kept.load(kRelaxed)) return;
  const absl::MutexLock lock(&reserve_->mutex);
  if (reserve_->fd.valid()) return;
  reserve_->fd = UniqueFd(eventfd(0, EFD_CLOEXEC));  // the cheapest; nothing uses it
  reserve_->kept.store(reserve_->fd.valid(), kRelaxed);
}

absl::StatusOr<size_t> Userfaultfd::Read(std::span<uffd_msg> messages) {
  KeepReserve();
  absl::StatusOr<size_t> count = ReadMessages(fd_.get(), messages);
  return absl::IsResourceExhausted(count.status()) ? ReadByReserve(messages) : count;
}

absl::StatusOr<size_t> Userfaultfd::ReadByReserve(std::span<uffd_msg> messages) {
  const absl::MutexLock lock(&reserve_->mutex);
  reserve_->kept.store(false, kRelaxed);
  reserve_->fd.Reset();
  return ReadMessages(fd_.get(), messages);
}

}  // namespace underfoot
