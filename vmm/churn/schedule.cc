#include "vmm/churn/schedule.h"

#include <algorithm>

namespace underfoot {

ChurnSchedule::ChurnSchedule(const ChurnRates& rates, uint64_t seed, ChurnLane lane)
    : random_(seed + static_cast<uint64_t>(lane)) {
  for (const auto& [kind, rate] : rates) {
    if (rate > 0 && LaneOf(kind) == lane) series_.push_back({kind, absl::Seconds(1) / rate});
  }
}

ChurnSchedule::Step ChurnSchedule::Next() {
  const auto next =
      std::min_element(series_.begin(), series_.end(),
                       [](const Series& a, const Series& b) { return a.due() < b.due(); });
  const Step step{next->kind, next->due(), random_()};
  ++next->done;
  return step;
}

}  // namespace underfoot
