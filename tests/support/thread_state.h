// What the kernel says that threads of this process are doing. A look, and no order: what a thread
// has written is seen through an atomic or a lock, not through its sleep.

#ifndef UNDERFOOT_TESTS_SUPPORT_THREAD_STATE_H_
#define UNDERFOOT_TESTS_SUPPORT_THREAD_STATE_H_

#include <sys/types.h>

namespace underfoot::testing {

// Whether the thread waits for something.
bool ThreadSleeps(pid_t thread);

// Whether no thread but the caller runs, wants to or is at work in the kernel.
bool OtherThreadsSleep();

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_THREAD_STATE_H_
