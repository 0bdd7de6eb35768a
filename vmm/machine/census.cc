#include "vmm/machine/census.h"

#include <filesystem>
#include <iterator>
#include <system_error>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "vmm/base/monotonic.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(1);

uint64_t EntriesOf(const char* directory) {
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  if (error) return 0;
  return static_cast<uint64_t>(std::distance(begin(entries), end(entries)));
}

}  // namespace

Census Census::Take() {
  return {.descriptors = EntriesOf("/proc/self/fd"), .threads = EntriesOf("/proc/self/task")};
}

std::vector<std::string> LeftBehind(const Census& before, absl::Duration patience) {
  const auto more = [&before](const Census& now) {
    return now.descriptors > before.descriptors || now.threads > before.threads;
  };
  const absl::Duration end = MonotonicNow() + patience;
  Census after = Census::Take();
  while (more(after) && MonotonicNow() < end) {
    absl::SleepFor(kPause);
    after = Census::Take();
  }
  std::vector<std::string> lines;
  if (after.descriptors > before.descriptors) {
    lines.push_back(absl::StrFormat("%d file descriptors were left open",
                                    after.descriptors - before.descriptors));
  }
  if (after.threads > before.threads) {
    lines.push_back(
        absl::StrFormat("%d threads were left running", after.threads - before.threads));
  }
  return lines;
}

std::string LeftInMmu(const MmuStats& stats, uint64_t hanging) {
  if (stats.notifier.in_flight <= hanging &&
      stats.pfn_caches.count <= virtio::Virtqueue::kCaches * hanging &&
      stats.rcu.pending_tables == 0 && stats.notifier.stray_ends == 0) {
    return {};
  }
  return absl::StrFormat(
      "left over at the end: %d brackets, %d pfn caches, %d retired tables, %d stray ends",
      stats.notifier.in_flight, stats.pfn_caches.count, stats.rcu.pending_tables,
      stats.notifier.stray_ends);
}

}  // namespace underfoot
