// Waiting for a condition that has no event to wait on, with a deadline instead of a guess.
//
// A test never sleeps for "long enough": it says what must become true and how long at most.

#ifndef UNDERFOOT_TESTS_SUPPORT_WAIT_UNTIL_H_
#define UNDERFOOT_TESTS_SUPPORT_WAIT_UNTIL_H_

#include <chrono>
#include <functional>

namespace underfoot::testing {

// Generous, because a sanitizer lane on two busy CPUs is slow: it ends a hang, it times nothing.
inline constexpr std::chrono::milliseconds kDeadline{40000};

// True as soon as `predicate` is; false when `limit` has passed. The predicate is asked once more
// after the limit, so a thread that was not scheduled for a while is not a failure.
[[nodiscard]] bool WaitUntil(const std::function<bool()>& predicate,
                             std::chrono::milliseconds limit = kDeadline);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_WAIT_UNTIL_H_
