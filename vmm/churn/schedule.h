// Decides which operation comes next, and when. It is a pure function of the rates and the seed and
// does not depend on the current time, so that a run can be repeated.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CHURN_SCHEDULE_H_
#define UNDERFOOT_VMM_CHURN_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "absl/time/time.h"
#include "vmm/config/churn_kind.h"

namespace underfoot {

// Operations that wait for the vCPUs, or for long work of the host, take a thousand times as long
// as the others. Therefore each of these classes has its own lane: a schedule and a thread.
enum class ChurnLane : uint8_t { kPages, kMemslots, kSlow };
inline constexpr size_t kChurnLanes = 3;

constexpr ChurnLane LaneOf(ChurnKind kind) {
  switch (kind) {
    case ChurnKind::kMemslot:
      return ChurnLane::kMemslots;
    case ChurnKind::kCollapse:
    case ChurnKind::kSplit:
    case ChurnKind::kMerge:
    case ChurnKind::kFork:
    case ChurnKind::kCompact:
    case ChurnKind::kMigrate:
    case ChurnKind::kAdversary:
      return ChurnLane::kSlow;
    default:
      return ChurnLane::kPages;
  }
}

class ChurnSchedule {
 public:
  struct Step {
    ChurnKind kind;
    absl::Duration due;  // the time since the start of the schedule
    uint64_t random;     // the operation selects its pages by this number
  };

  // A schedule of the kinds of one lane.
  ChurnSchedule(const ChurnRates& rates, uint64_t seed, ChurnLane lane);

  bool empty() const { return series_.empty(); }
  // Must not be called on an empty schedule.
  Step Next();

 private:
  // The operations of one kind, at equal intervals.
  struct Series {
    ChurnKind kind;
    absl::Duration period;
    uint64_t done = 0;
    absl::Duration due() const { return period * (static_cast<double>(done) + 1); }
  };

  std::vector<Series> series_;
  std::mt19937_64 random_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_SCHEDULE_H_
