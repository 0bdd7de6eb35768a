// Which operation comes next, and when: a pure function of the rates and the seed, whatever the
// time is, so that a run can be repeated.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CHURN_SCHEDULE_H_
#define UNDERFOOT_VMM_CHURN_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "absl/time/time.h"
#include "vmm/churn_kind.h"

namespace underfoot {

// Operations that wait for the vCPUs, or for the host to do a lot, take a thousand times as long as
// the others: each sort has a lane, that is a schedule and a thread, of its own.
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
    absl::Duration due;  // since the start of the schedule
    uint64_t random;     // what the operation draws its pages from
  };

  // The kinds of one lane.
  ChurnSchedule(const ChurnRates& rates, uint64_t seed, ChurnLane lane);

  bool empty() const { return series_.empty(); }
  // Not when empty.
  Step Next();

 private:
  // The operations of one kind, at even distances.
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
