#include "vmm/hooks/own_pidfd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace underfoot::hooks {
namespace {

// No libc function is used: the stack may be small, and open() is a cancellation point.

// Writes `head` followed by `number` to `path`.
void PathOf(const char* head, long number, std::array<char, 48>& path) {
  char* at = path.data();
  for (; *head != 0; ++head) *at++ = *head;
  std::array<char, 20> digits;
  size_t n = 0;
  do {
    digits[n++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (n > 0) *at++ = digits[--n];
  *at = 0;
}

// The number behind "Pid:" in the descriptor's fdinfo; 0 if it cannot be read.
long PidBehind(int pidfd) {
  std::array<char, 48> path;
  PathOf("/proc/self/fdinfo/", pidfd, path);
  const auto info =
      static_cast<int>(syscall(SYS_openat, AT_FDCWD, path.data(), O_RDONLY | O_CLOEXEC));
  if (info < 0) return 0;
  std::array<char, 192> text;  // large enough for pos, flags, mnt_id and ino, which come first
  const long n = syscall(SYS_read, info, text.data(), text.size());
  syscall(SYS_close, info);
  const std::string_view all(text.data(), n > 0 ? static_cast<size_t>(n) : 0);
  const size_t found = all.find("Pid:\t");
  long pid = 0;
  for (size_t i = found + 5; found < all.size() && i < all.size(); ++i) {
    if (all[i] < '0' || all[i] > '9') return pid;
    pid = 10 * pid + (all[i] - '0');
  }
  return 0;  // the field is missing or cut off
}

}  // namespace

bool MayBeOwnPidfd(int pidfd) {
  if (pidfd < 0) return true;  // PIDFD_SELF and the other special values
  const int errno_before = errno;
  // A pidfd may refer to a thread. /proc names processes and threads by the numbers of its own
  // namespace.
  const long pid = PidBehind(pidfd);
  std::array<char, 48> task;
  PathOf("/proc/self/task/", pid, task);
  const bool foreign =
      pid > 0 && syscall(SYS_faccessat, AT_FDCWD, task.data(), F_OK) != 0 && errno == ENOENT;
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
  // A filter of system calls has refused the call, and not the memory: copy it directly.
  if (refused) std::memcpy(to, from, bytes);
  return refused || n == static_cast<ssize_t>(bytes);
}

}  // namespace underfoot::hooks
