#include "vmm/hooks/fork.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <new>

#include "mmu/base/ordering.h"
#include "vmm/hooks/bracket.h"

namespace underfoot::hooks {
namespace {

// A fork in progress. One thread may have two of them, if a callback or a signal handler forks too.
struct Fork {
  Fork* outer;
  Bracket bracket;
};

// Initial-exec: the look-up of another kind of thread-local may allocate, which would lead back
// here.
[[gnu::tls_model("initial-exec")]] thread_local Fork* t_innermost = nullptr;
// Forks that were not reported because the host had no memory left.
[[gnu::tls_model("initial-exec")]] thread_local unsigned t_unreported = 0;

void BeforeFork() {
  const int errno_before = errno;
  const long memory = syscall(SYS_mmap, nullptr, sizeof(Fork), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
  // A handler of pthread_atfork cannot make fork fail; without memory the fork itself will probably
  // fail.
  if (memory == -1) {
    ++t_unreported;
  } else {
    t_innermost = new (std::bit_cast<void*>(memory)) Fork{t_innermost, {}};
    t_innermost->bracket.AddAllThatReportForks();
    t_innermost->bracket.Begin(UNDERFOOT_FORK, UNDERFOOT_WRITES_GO, 0);
  }
  errno = errno_before;
}

// Called in the parent and in the child. In the child the bracket detects that it is in another
// process.
void AfterFork() {
  Fork* const fork = t_innermost;
  if (t_unreported != 0) {
    --t_unreported;
    return;
  }
  const int errno_before = errno;
  t_innermost = fork->outer;
  fork->bracket.End(0);
  fork->~Fork();
  syscall(SYS_munmap, fork, sizeof(Fork));
  errno = errno_before;
}

}  // namespace

int WatchForks() {
  static constinit std::atomic<bool> watching{false};
  if (watching.exchange(true, kAcqRel)) return 0;
  const int error = pthread_atfork(BeforeFork, AfterFork, AfterFork);
  if (error != 0) watching.store(false, kRelease);
  return error;
}

}  // namespace underfoot::hooks
