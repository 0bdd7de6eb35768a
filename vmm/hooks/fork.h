// Reports a fork to the ranges that ask for it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_HOOKS_FORK_H_
#define UNDERFOOT_VMM_HOOKS_FORK_H_

namespace underfoot::hooks {

// From the first return of this function on, each fork() is reported to the ranges with
// UNDERFOOT_TELL_FORK. Returns 0 or an errno value.
[[nodiscard]] int WatchForks();

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_FORK_H_
