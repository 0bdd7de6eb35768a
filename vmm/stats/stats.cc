#include "vmm/stats/stats.h"

namespace underfoot {

std::string_view VmStateName(VmState state) {
  switch (state) {
    case VmState::kStarting:
      return "starting";
    case VmState::kRunning:
      return "running";
    case VmState::kPaused:
      return "paused";
    case VmState::kEnding:
      return "ending";
    case VmState::kStopped:
      return "stopped";
  }
  return "unknown";
}

std::string_view GuestVerdictName(GuestVerdict verdict) {
  switch (verdict) {
    case GuestVerdict::kPending:
      return "pending";
    case GuestVerdict::kGood:
      return "good";
    case GuestVerdict::kBad:
      return "bad";
    case GuestVerdict::kNone:
      return "none";
  }
  return "unknown";
}

uint64_t TotalOperations(const ChurnCounts& operations) {
  uint64_t total = 0;
  for (const auto& [kind, count] : operations) total += count;
  return total;
}

uint64_t TotalFaults(const UffdStats& uffd) { return uffd.missing + uffd.wp + uffd.minor; }

}  // namespace underfoot
