#include "vmm/churn/forking.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "vmm/base/bare_child.h"
#include "vmm/base/unique_fd.h"
#include "vmm/ram/forkable_memory.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
namespace {

// The main function of the child.
[[noreturn]] UNDERFOOT_BARE void Live(const timespec* lifetime) {
  bare::DieWithParent();
  bare::Close(0, ~0U);  // a userfaultfd ends when its last descriptor is closed
  syscall(SYS_nanosleep, lifetime, nullptr);
  bare::Exit();
}

}  // namespace

absl::StatusOr<ChurnOutcome> ForkWith(HvaRange range, absl::Duration lifetime) {
  // The reader of the fork event needs a free descriptor; without one the fork would wait.
  if (const UniqueFd room(eventfd(0, EFD_CLOEXEC)); !room.valid()) return ChurnOutcome::kDeclined;
  std::optional<ForkableMemory> forkable(std::in_place);
  if (absl::Status given = hooked::Madvise(range, MADV_DOFORK); !given.ok()) return given;
  const timespec rest = absl::ToTimespec(lifetime);
  // Without the handlers of pthread_atfork: the child must not run other code.
  const pid_t child = _Fork();
  if (child == 0) Live(&rest);
  const int error = errno;
  absl::Status kept = hooked::Madvise(range, MADV_DONTFORK);
  forkable.reset();
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
