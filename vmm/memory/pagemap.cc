#include "vmm/memory/pagemap.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "mmu/check.h"

namespace underfoot {
namespace {

constexpr char kPath[] = "/proc/self/pagemap";
constexpr uint64_t kPfnMask = (uint64_t{1} << 55) - 1;
constexpr uint64_t kUffdWp = uint64_t{1} << 57;
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kPresent = uint64_t{1} << 63;

uint64_t ReadRaw(int fd, Hva page) {
  uint64_t raw = 0;
  const auto offset = static_cast<off_t>((page.value >> kPageShift) * sizeof(raw));
  ssize_t bytes = 0;
  do {
    bytes = pread(fd, &raw, sizeof(raw), offset);
  } while (bytes < 0 && errno == EINTR);
  UNDERFOOT_CHECK(bytes == static_cast<ssize_t>(sizeof(raw)), "pagemap cannot be read", page.value,
                  errno);
  return raw;
}

}  // namespace

absl::StatusOr<Pagemap> Pagemap::Open() {
  UniqueFd fd(open(kPath, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "open /proc/self/pagemap; is /proc mounted?");
  Pagemap pagemap(std::move(fd));
  // This page of the stack is present: a frame of 0 means that frames are hidden.
  const int here = 0;
  pagemap.real_pfns_ = (ReadRaw(pagemap.fd_.get(), PageOf(HvaOf(&here))) & kPfnMask) != 0;
  return pagemap;
}

PagemapEntry Pagemap::Read(Hva page) const {
  const uint64_t raw = ReadRaw(fd_.get(), page);
  PagemapEntry entry;
  entry.present = (raw & kPresent) != 0;
  entry.swapped = (raw & kSwapped) != 0;
  entry.uffd_wp = (raw & kUffdWp) != 0;
  if (entry.present) entry.pfn = {real_pfns_ ? raw & kPfnMask : page.value >> kPageShift};
  return entry;
}

}  // namespace underfoot
