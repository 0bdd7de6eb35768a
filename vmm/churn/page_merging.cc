#include "vmm/churn/page_merging.h"

#include <sys/mman.h>

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/base/monotonic.h"
#include "vmm/churn/host_knobs.h"
#include "vmm/host/knob.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(3);
constexpr absl::Duration kLook = absl::Milliseconds(2);

uint64_t FullScans() {
  const absl::StatusOr<std::string> text = ReadKnob(kKsmFullScans);
  return text.ok() ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

}  // namespace

absl::StatusOr<ChurnOutcome> MergePages(HvaRange range, const std::function<bool()>& stop) {
  if (absl::Status marked = hooked::Madvise(range, MADV_MERGEABLE); !marked.ok()) return marked;
  // The scan in progress may have passed the range already; two complete scans begin after it.
  const uint64_t enough = FullScans() + 3;
  const absl::Duration end = MonotonicNow() + kPatience;
  bool scanned = false;
  while (!stop() && MonotonicNow() < end) {
    scanned = FullScans() >= enough;
    if (scanned) break;
    absl::SleepFor(kLook);
  }
  if (absl::Status taken = hooked::Madvise(range, MADV_UNMERGEABLE); !taken.ok()) return taken;
  return scanned ? ChurnOutcome::kDone : ChurnOutcome::kDeclined;
}

}  // namespace underfoot
