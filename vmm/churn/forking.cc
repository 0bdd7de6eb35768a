#include "vmm/churn/forking.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"

namespace underfoot {

absl::StatusOr<ChurnOutcome> ForkWith(MmHooks& hooks, HvaRange range, absl::Duration lifetime) {
  if (absl::Status given = hooks.Madvise(range, MADV_DOFORK); !given.ok()) return given;
  const timespec rest = absl::ToTimespec(lifetime);
  const pid_t child = _Fork();  // without the handlers of others: the child calls nobody
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    syscall(SYS_close_range, 0, ~0U, 0);  // a userfaultfd ends when its last descriptor is closed
    nanosleep(&rest, nullptr);
    _exit(0);
  }
  const int error = errno;
  absl::Status kept = hooks.Madvise(range, MADV_DONTFORK);
  if (child < 0) {
    if (!kept.ok()) return kept;
    if (error == EAGAIN || error == ENOMEM) return ChurnOutcome::kDeclined;
    return absl::ErrnoToStatus(error, "fork");
  }
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!kept.ok()) return kept;
  return ChurnOutcome::kDone;
}

}  // namespace underfoot
