#include "vmm/base/monotonic.h"

#include <time.h>

#include <algorithm>

#include "absl/time/clock.h"

namespace underfoot {

absl::Duration MonotonicNow() {
  timespec now{};
  static_cast<void>(clock_gettime(CLOCK_MONOTONIC, &now));
  return absl::DurationFromTimespec(now);
}

bool AwaitFor(absl::Mutex& mutex, const absl::Condition& condition, absl::Duration timeout,
              absl::Duration first_look) {
  constexpr absl::Duration kRarest = absl::Milliseconds(10);
  const absl::Duration end = MonotonicNow() + timeout;
  absl::Duration look = first_look;
  while (!condition.Eval()) {
    const absl::Duration left = end - MonotonicNow();
    if (left <= absl::ZeroDuration()) return false;
    mutex.Unlock();
    absl::SleepFor(std::min(left, look));  // a relative sleep, so it follows the monotonic clock
    mutex.Lock();
    look = std::min(2 * look, kRarest);
  }
  return true;
}

}  // namespace underfoot
