#include "vmm/devices/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "vmm/base/monotonic.h"

namespace underfoot::virtio {
namespace {

// Frame numbers that are handled at once.
constexpr uint64_t kFramesAtOnce = 512;

// Section 5.5.6.4; <linux/virtio_balloon.h> has the same struct.
static_assert(sizeof(virtio_balloon_stat) == 10);
// The standard has ten tags. What follows these entries is not read.
constexpr uint64_t kMostStatistics = 64;

// nullptr: a tag of a later standard.
uint64_t* FieldOf(GuestMemoryStats& stats, uint16_t tag) {
  switch (tag) {
    case VIRTIO_BALLOON_S_SWAP_IN:
      return &stats.swap_in_bytes;
    case VIRTIO_BALLOON_S_SWAP_OUT:
      return &stats.swap_out_bytes;
    case VIRTIO_BALLOON_S_MAJFLT:
      return &stats.major_faults;
    case VIRTIO_BALLOON_S_MINFLT:
      return &stats.minor_faults;
    case VIRTIO_BALLOON_S_MEMFREE:
      return &stats.free_bytes;
    case VIRTIO_BALLOON_S_MEMTOT:
      return &stats.total_bytes;
    case VIRTIO_BALLOON_S_AVAIL:
      return &stats.available_bytes;
    case VIRTIO_BALLOON_S_CACHES:
      return &stats.cache_bytes;
    case VIRTIO_BALLOON_S_HTLB_PGALLOC:
      return &stats.hugetlb_allocations;
    case VIRTIO_BALLOON_S_HTLB_PGFAIL:
      return &stats.hugetlb_failures;
    default:
      return nullptr;
  }
}

}  // namespace

uint32_t Balloon::device_id() const { return VIRTIO_ID_BALLOON; }

uint64_t Balloon::features() const {
  return FeatureBit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | FeatureBit(VIRTIO_BALLOON_F_REPORTING) |
         FeatureBit(VIRTIO_BALLOON_F_STATS_VQ);
}

void Balloon::DriverBegins(uint64_t features) {
  reports_statistics_.store((features & FeatureBit(VIRTIO_BALLOON_F_STATS_VQ)) != 0, kRelease);
  asked_.store(false, kRelaxed);
}

void Balloon::AskForStatistics() {
  if (!reports_statistics_.load(kAcquire)) return;
  asked_.store(true, kRelease);
  WakeQueue(kStatistics);
}

GuestMemoryStats Balloon::GuestStats() const {
  const int64_t now_us = absl::ToInt64Microseconds(MonotonicNow());
  absl::MutexLock lock(&mutex_);
  GuestMemoryStats stats = guest_;
  if (stats.reports != 0) {
    stats.age_us = static_cast<uint64_t>(std::max(now_us - guest_reported_us_, int64_t{0}));
  }
  return stats;
}

absl::Status Balloon::SetTarget(uint64_t bytes) {
  if (bytes > memory_.usable_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a balloon of %d bytes: the guest has %d bytes of memory; ask for less",
                        bytes, memory_.usable_bytes()));
  }
  if (bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a balloon of %d bytes is not a whole number of %d-byte pages", bytes, kPageSize));
  }
  target_pages_.store(static_cast<uint32_t>(bytes >> kPageShift), kRelease);
  generation_.fetch_add(1, kRelease);
  changed_.Note();
  ConfigChanged();
  return absl::OkStatus();
}

BalloonStats Balloon::Stats() const {
  const bool reached = target_pages_.load(kRelaxed) == actual_pages_.load(kRelaxed);
  return {.target_bytes = uint64_t{target_pages_.load(kRelaxed)} << kPageShift,
          .actual_bytes = uint64_t{actual_pages_.load(kRelaxed)} << kPageShift,
          .inflated = inflated_.Get(),
          .deflated = deflated_.Get(),
          .reported = reported_.Get(),
          .kept = kept_.Get(),
          .idle_us = changed_.IdleUs(reached)};
}

void Balloon::ReadConfig(uint64_t offset, std::span<std::byte> data) const {
  virtio_balloon_config config{};
  config.num_pages = target_pages_.load(kAcquire);
  config.actual = actual_pages_.load(kRelaxed);
  CopyConfig(std::as_bytes(std::span(&config, 1)), offset, data);
}

// The driver writes `actual` and nothing else.
void Balloon::WriteConfig(uint64_t offset, std::span<const std::byte> data) {
  uint32_t value = 0;
  if (offset != offsetof(virtio_balloon_config, actual) || data.size() != sizeof(value)) return;
  std::memcpy(&value, data.data(), sizeof(value));
  actual_pages_.store(value, kRelaxed);
  changed_.Note();
}

Served Balloon::Serve(Request& request) {
  switch (request.queue()) {
    case kInflate:
      changed_.Note();
      return {.answered = TakeFrames(request)};
    case kDeflate:
      changed_.Note();
      return {.answered = CountFrames(request)};
    case kStatistics:
      if (reports_statistics_.load(kAcquire)) return TakeStatistics(request);
      break;
    default:
      break;
  }
  return {.answered = TakeBuffers(request)};
}

// The count grows after the discard. A thread that reads the count therefore finds the pages
// discarded.
void Balloon::Give(HvaRange pages, Counter& pages_given, Request& request) {
  give_back_(pages, request, [&](HvaRange piece, bool gone) {
    const uint64_t count = piece.size() >> kPageShift;
    if (!gone) {
      kept_.Add(count);
      request.counters().errors.Add();
    }
    pages_given.Add(count);
  });
}

// The frames of a request in any order. Adjacent ones go in one call.
bool Balloon::TakeFrames(Request& request) {
  std::array<uint32_t, kFramesAtOnce> frames;
  const uint64_t bytes = request.readable_bytes();
  if (bytes == 0 || bytes % sizeof(uint32_t) != 0) return false;
  for (uint64_t done = 0; done < bytes && !request.abandoned();) {
    const uint64_t here = std::min<uint64_t>(bytes - done, sizeof(frames));
    const auto some = std::span(frames).first(here / sizeof(uint32_t));
    if (!request.Read(done, std::as_writable_bytes(some))) return false;
    std::sort(some.begin(), some.end());
    if (!memory_.IsRam(GpaOf({some.back()}), kPageSize)) return false;
    for (size_t i = 0; i < some.size();) {
      const size_t first = i++;
      while (i < some.size() && some[i] - some[i - 1] <= 1) ++i;
      // RAM goes when its machine ends, and a worker that is left behind is still here.
      const Gpa gpa = GpaOf({some[first]});
      const std::optional<Hva> hva = memory_.HvaOf(gpa);
      const uint64_t run = (uint64_t{some[i - 1]} - some[first] + 1) << kPageShift;
      if (!hva.has_value() || !memory_.IsRam(gpa, run)) return false;
      Give(PageRangeOf(*hva, some[i - 1] - some[first] + 1), inflated_, request);
    }
    request.counters().from_guest_bytes.Add(here);
    done += here;
  }
  return true;
}

// The guest may use the pages already: a fault brings a page of zeroes.
bool Balloon::CountFrames(Request& request) {
  const uint64_t bytes = request.readable_bytes();
  if (bytes == 0 || bytes % sizeof(uint32_t) != 0) return false;
  deflated_.Add(bytes / sizeof(uint32_t));
  request.counters().from_guest_bytes.Add(bytes);
  return true;
}

// What is in the buffer is read once, when the driver gives it. It goes back when new values are asked
// for: the driver takes that as the request to fill it.
Served Balloon::TakeStatistics(Request& request) {
  if (request.waited()) {
    return asked_.exchange(false, kAcquire) ? Served{} : Served{.later = true};
  }
  const uint64_t bytes = request.readable_bytes();
  if (bytes == 0 || bytes % sizeof(virtio_balloon_stat) != 0 || request.writable_bytes() != 0) {
    return {.answered = false};
  }
  // What was asked for until now is answered by what follows.
  asked_.store(false, kRelaxed);
  std::array<virtio_balloon_stat, kMostStatistics> entries;
  const auto some =
      std::span(entries).first(std::min<uint64_t>(bytes / sizeof(entries[0]), kMostStatistics));
  if (!request.Read(0, std::as_writable_bytes(some))) return {.answered = false};
  request.counters().from_guest_bytes.Add(some.size_bytes());
  GuestMemoryStats stats;
  for (const virtio_balloon_stat& entry : some) {
    if (uint64_t* const field = FieldOf(stats, entry.tag)) *field = entry.val;
  }
  absl::MutexLock lock(&mutex_);
  stats.reports = guest_.reports + 1;
  guest_ = stats;
  guest_reported_us_ = absl::ToInt64Microseconds(MonotonicNow());
  return {.later = true};
}

// The buffers are the free memory itself. Only whole pages go.
bool Balloon::TakeBuffers(Request& request) {
  if (request.writable().empty()) return false;
  for (const Buffer& buffer : request.writable()) {
    const std::optional<Hva> begin = memory_.HvaOf(buffer.gpa);
    if (!begin.has_value()) return false;
    const HvaRange whole{{(begin->value + kPageMask) & ~kPageMask},
                         {(begin->value + buffer.bytes) & ~kPageMask}};
    if (whole.begin < whole.end) Give(whole, reported_, request);
  }
  return true;
}

}  // namespace underfoot::virtio
