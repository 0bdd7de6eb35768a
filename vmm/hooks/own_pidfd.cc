#include "vmm/hooks/own_pidfd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace underfoot::hooks {
namespace {

// The number behind "Pid:" in the descriptor's fdinfo; 0: not to be had.
long PidBehind(int pidfd) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
  const int info = open(path, O_RDONLY | O_CLOEXEC);
  if (info < 0) return 0;
  char text[512];
  const ssize_t n = read(info, text, sizeof(text) - 1);
  close(info);
  if (n <= 0) return 0;
  text[n] = '\0';
  const char* const pid = std::strstr(text, "Pid:");
  return pid == nullptr ? 0 : std::strtol(pid + 4, nullptr, 10);
}

}  // namespace

bool MayBeOwnPidfd(int pidfd) {
  if (pidfd < 0) return true;  // PIDFD_SELF and its kin
  const int errno_before = errno;
  // A pidfd may be a thread's. /proc names both by the numbers of its own namespace.
  const long pid = PidBehind(pidfd);
  char task[64];
  std::snprintf(task, sizeof(task), "/proc/self/task/%ld", pid);
  const bool foreign = pid > 0 && access(task, F_OK) != 0 && errno == ENOENT;
  errno = errno_before;
  return !foreign;
}

bool CopyFromCaller(void* to, const void* from, size_t bytes) {
  const int errno_before = errno;
  const iovec local{to, bytes};
  const iovec remote{const_cast<void*>(from), bytes};
  const long n = syscall(SYS_process_vm_readv, getpid(), &local, 1L, &remote, 1L, 0L);
  const bool refused = n < 0 && errno != EFAULT;
  errno = errno_before;
  if (refused) std::memcpy(to, from, bytes);  // a filter of system calls, not the memory
  return refused || n == static_cast<ssize_t>(bytes);
}

}  // namespace underfoot::hooks
