// Elapsed time and timed waits that use the monotonic clock.
//
// absl::Now and the timed waits of absl::Mutex follow the wall clock. If an operator sets the time,
// a wait of 10 s may take an hour, or return at once.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_BASE_MONOTONIC_H_
#define UNDERFOOT_VMM_BASE_MONOTONIC_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace underfoot {

// The time since a fixed moment before the process began.
absl::Duration MonotonicNow();

// Returns whether `condition` became true within `timeout`. It is first checked again after
// `first_look`, and then at growing intervals. `mutex` is released between two checks.
bool AwaitFor(absl::Mutex& mutex, const absl::Condition& condition, absl::Duration timeout,
              absl::Duration first_look = absl::Milliseconds(1))
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_MONOTONIC_H_
