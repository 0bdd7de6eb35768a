// What a child of _Fork() may call: the kernel, and nothing else. The process that it was forked from
// has other threads, and a lock that one of them held at that moment is held for ever in the child.
// That includes the locks of a sanitizer's run-time library, which stands behind prctl(), recv() and
// even _exit(): under ThreadSanitizer a child that called _exit() while the parent created a thread
// never ended. So nothing here goes through a name that a library can take over, except syscall()
// itself, and a function that runs in the child is marked UNDERFOOT_BARE.
//
// Thread safety: each function may be called by any thread of any process. See vfork(2) and
// signal-safety(7).

#ifndef UNDERFOOT_VMM_BASE_BARE_CHILD_H_
#define UNDERFOOT_VMM_BASE_BARE_CHILD_H_

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// No calls of a sanitizer are compiled into the function.
#define UNDERFOOT_BARE __attribute__((no_sanitize("address", "thread", "undefined")))

namespace underfoot::bare {

// The kernel kills this process when the thread that forked it ends.
UNDERFOOT_BARE inline void DieWithParent() {
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

// Closes the descriptors from `first` to `last`.
UNDERFOOT_BARE inline void Close(unsigned first, unsigned last) {
  syscall(SYS_close_range, first, last, 0);
}

[[noreturn]] UNDERFOOT_BARE inline void Exit() {
  for (;;) syscall(SYS_exit_group, 0);
}

}  // namespace underfoot::bare

#endif  // UNDERFOOT_VMM_BASE_BARE_CHILD_H_
