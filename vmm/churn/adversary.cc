#include "vmm/churn/adversary.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/base/bare_child.h"
#include "vmm/base/errno_status.h"

namespace underfoot {
namespace {

struct Request {
  uint64_t address;
  uint64_t bytes;
  int advice;
};

// The main function of the other process. It ends when the other end of its socket is closed; this
// also covers a victim that died before DieWithParent().
[[noreturn]] UNDERFOOT_BARE void Live(pid_t victim, int socket) {
  bare::DieWithParent();
  syscall(SYS_prctl, PR_SET_NAME, "uf-adversary", 0, 0, 0);
  // Inherited copies of a machine's descriptors would keep the machine's userfaultfd alive.
  const auto mine = static_cast<unsigned>(socket);
  if (mine > 0) bare::Close(0, mine - 1);
  bare::Close(mine + 1, ~0U);
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, victim, 0));
  Request request;
  while (syscall(SYS_recvfrom, socket, &request, sizeof(request), 0, nullptr, nullptr) ==
         ssize_t{sizeof(request)}) {
    iovec range{reinterpret_cast<void*>(request.address), request.bytes};  // NOLINT: an address
    int error = 0;
    if (syscall(SYS_process_madvise, pidfd, &range, 1, request.advice, 0) < 0) error = errno;
    if (syscall(SYS_sendto, socket, &error, sizeof(error), MSG_NOSIGNAL, nullptr, 0) !=
        ssize_t{sizeof(error)}) {
      break;
    }
  }
  bare::Exit();
}

}  // namespace

absl::StatusOr<Adversary> Adversary::Start() {
  std::array<int, 2> pair{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return ErrnoStatus(errno, "socketpair for the adversary");
  }
  UniqueFd ours(pair[0]);
  const UniqueFd its(pair[1]);
  const pid_t victim = getpid();
  // Without the handlers of pthread_atfork: the child must not run other code.
  const pid_t pid = _Fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork of the adversary");
  if (pid == 0) Live(victim, its.get());
  return Adversary(pid, std::move(ours));
}

Adversary::Adversary(Adversary&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), socket_(std::move(other.socket_)) {}

Adversary::~Adversary() {
  if (pid_ == 0) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status Adversary::Advise(HvaRange range, int advice) {
  const Request request{range.begin.value, range.size(), advice};
  int error = 0;
  if (send(socket_.get(), &request, sizeof(request), MSG_NOSIGNAL) != ssize_t{sizeof(request)} ||
      recv(socket_.get(), &error, sizeof(error), 0) != ssize_t{sizeof(error)}) {
    return absl::AbortedError("the adversary process has ended");
  }
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(error, absl::StrFormat("process_madvise(%d) of hva [0x%x, 0x%x)",
                                                    advice, range.begin.value, range.end.value));
}

}  // namespace underfoot
