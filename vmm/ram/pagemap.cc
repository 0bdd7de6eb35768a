#include "vmm/ram/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "vmm/base/errno_status.h"

namespace underfoot {
namespace {

constexpr char kPath[] = "/proc/self/pagemap";
constexpr uint64_t kPfnMask = (uint64_t{1} << 55) - 1;
constexpr uint64_t kUffdWp = uint64_t{1} << 57;
constexpr uint64_t kSwapped = uint64_t{1} << 62;
constexpr uint64_t kPresent = uint64_t{1} << 63;

void ReadRaw(int fd, Hva page, std::span<uint64_t> raw) {
  auto offset = static_cast<off_t>((page.value >> kPageShift) * sizeof(uint64_t));
  for (std::span<std::byte> left = std::as_writable_bytes(raw); !left.empty();) {
    const ssize_t bytes = pread(fd, left.data(), left.size(), offset);
    if (bytes < 0 && errno == EINTR) continue;
    UNDERFOOT_CHECK(bytes > 0 && static_cast<size_t>(bytes) % sizeof(uint64_t) == 0,
                    "pagemap cannot be read", page.value, errno);
    left = left.subspan(static_cast<size_t>(bytes));
    offset += bytes;
  }
}

uint64_t ReadRaw(int fd, Hva page) {
  uint64_t raw = 0;
  ReadRaw(fd, page, {&raw, 1});
  return raw;
}

}  // namespace

absl::StatusOr<Pagemap> Pagemap::Open() {
  UniqueFd fd(open(kPath, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "open /proc/self/pagemap", "is /proc mounted?");
  Pagemap pagemap(std::move(fd));
  // This page of the stack is present: a frame of 0 means that frames are hidden.
  const int here = 0;
  pagemap.real_pfns_ = (ReadRaw(pagemap.fd_.get(), PageOf(HvaOf(&here))) & kPfnMask) != 0;
  return pagemap;
}

PagemapEntry Pagemap::Parse(uint64_t raw, Hva page) const {
  PagemapEntry entry;
  entry.present = (raw & kPresent) != 0;
  entry.swapped = (raw & kSwapped) != 0;
  entry.uffd_wp = (raw & kUffdWp) != 0;
  if (entry.present) entry.pfn = {real_pfns_ ? raw & kPfnMask : page.value >> kPageShift};
  return entry;
}

PagemapEntry Pagemap::Read(Hva page) const { return Parse(ReadRaw(fd_.get(), page), page); }

void Pagemap::Read(HvaRange range, std::span<PagemapEntry> entries) const {
  std::array<uint64_t, 512> raw;
  const uint64_t pages = range.size() >> kPageShift;
  for (uint64_t first = 0; first < pages; first += raw.size()) {
    const std::span<uint64_t> some =
        std::span<uint64_t>(raw).first(std::min<uint64_t>(raw.size(), pages - first));
    ReadRaw(fd_.get(), range.begin + first * kPageSize, some);
    for (uint64_t i = 0; i < some.size(); ++i) {
      entries[first + i] = Parse(some[i], range.begin + (first + i) * kPageSize);
    }
  }
}

int Pagemap::Scan(int fd, newer::PagemapScan* scan) { return ioctl(fd, newer::kPagemapScan, scan); }

absl::StatusOr<std::vector<HvaRange>> Pagemap::Written(HvaRange range, ScanCall call) const {
  std::vector<HvaRange> written;
  std::array<newer::PagemapRegion, 256> regions;
  newer::PagemapScan scan{};
  scan.size = sizeof(scan);
  scan.end = range.end.value;
  scan.vec = HvaOf(regions.data()).value;
  scan.vec_len = regions.size();
  // An absent page counts as written in some kernels, and is nothing to protect.
  scan.category_mask = newer::kPageIsWritten;
  scan.category_anyof_mask = newer::kPageIsPresent | newer::kPageIsSwapped;
  scan.return_mask = newer::kPageIsWritten;
  for (scan.start = range.begin.value; scan.start < scan.end; scan.start = scan.walk_end) {
    const int found = call(fd_.get(), &scan);
    if (found < 0 && errno == EINTR) {
      scan.walk_end = scan.start;
      continue;
    }
    if (found < 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrFormat("PAGEMAP_SCAN of hva [0x%x, 0x%x); Linux 6.7 has it",
                                 range.begin.value, range.end.value));
    }
    for (const newer::PagemapRegion& region :
         std::span(regions).first(static_cast<size_t>(found))) {
      written.push_back({{region.start}, {region.end}});
    }
  }
  return written;
}

}  // namespace underfoot
