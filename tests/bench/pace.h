// Events at a rate, for a thread that makes them beside a measurement.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_PACE_H_
#define UNDERFOOT_TESTS_BENCH_PACE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "mmu/base/ordering.h"

namespace underfoot::bench {

using Clock = std::chrono::steady_clock;

inline void SpinUntil(Clock::time_point time) {
  while (Clock::now() < time) CpuRelax();
}

class Pace {
 public:
  // 0: without a pause.
  explicit Pace(uint64_t per_second)
      : period_(per_second == 0 ? 0
                                : std::chrono::nanoseconds(std::chrono::seconds(1)).count() /
                                      static_cast<int64_t>(per_second)) {}

  // Returns when the next event is due. A thread that was preempted does not make up for it.
  void AwaitNext() {
    if (period_.count() == 0) return;
    SpinUntil(next_);
    next_ = std::max(next_ + period_, Clock::now());
  }

 private:
  std::chrono::nanoseconds period_;
  Clock::time_point next_ = Clock::now();
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_PACE_H_
