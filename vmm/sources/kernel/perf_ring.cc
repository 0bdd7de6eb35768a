#include "vmm/sources/kernel/perf_ring.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "mmu/base/types.h"

namespace underfoot {
namespace {

// What kPerfSampleType puts before the raw data, in the order of the kernel.
struct SampleHead {
  uint64_t identifier;
  uint32_t pid;
  int32_t tid;
  int64_t time_ns;
  uint32_t cpu;
  uint32_t reserved;
  uint32_t raw_bytes;
};
constexpr size_t kSampleHeadBytes = offsetof(SampleHead, raw_bytes) + sizeof(uint32_t);

}  // namespace

std::optional<PerfSample> ParsePerfSample(std::span<const std::byte> body) {
  if (body.size() < kSampleHeadBytes) return std::nullopt;
  SampleHead head{};
  std::memcpy(&head, body.data(), kSampleHeadBytes);
  body = body.subspan(kSampleHeadBytes);
  if (body.size() < head.raw_bytes) return std::nullopt;
  return PerfSample{head.identifier, head.tid, head.time_ns, body.first(head.raw_bytes)};
}

std::optional<uint64_t> ParsePerfLost(std::span<const std::byte> body) {
  uint64_t id_and_lost[2];
  if (body.size() < sizeof(id_and_lost)) return std::nullopt;
  std::memcpy(id_and_lost, body.data(), sizeof(id_and_lost));
  return id_and_lost[1];
}

absl::StatusOr<PerfRing> PerfRing::Map(int fd, size_t data_pages) {
  const size_t bytes = (1 + data_pages) * kPageSize;
  void* const base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("mmap of a perf ring of %d pages; sysctl kernel.perf_event_mlock_kb "
                               "bounds what a user may map",
                               data_pages));
  }
  PerfRing ring(static_cast<perf_event_mmap_page*>(base),
                {static_cast<std::byte*>(base) + kPageSize, data_pages * kPageSize});
  ring.mapped_bytes_ = bytes;
  return ring;
}

PerfRing::PerfRing(PerfRing&& other) noexcept
    : page_(other.page_),
      data_(other.data_),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      unwrapped_(std::move(other.unwrapped_)) {}

PerfRing::~PerfRing() {
  if (mapped_bytes_ != 0) static_cast<void>(munmap(page_, mapped_bytes_));
}

std::span<const std::byte> PerfRing::At(uint64_t position, uint64_t size) {
  const uint64_t offset = position % data_.size();
  if (offset + size <= data_.size()) return data_.subspan(offset, size);
  unwrapped_.resize(std::max(unwrapped_.size(), size));
  const uint64_t before = data_.size() - offset;
  std::memcpy(unwrapped_.data(), data_.data() + offset, before);
  std::memcpy(unwrapped_.data() + before, data_.data(), size - before);
  return std::span<const std::byte>(unwrapped_).first(size);
}

}  // namespace underfoot
