// A file that only one may write, or many may read: between machines, and between the options of one.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_BASE_FILE_LOCK_H_
#define UNDERFOOT_VMM_BASE_FILE_LOCK_H_

#include <sys/file.h>

#include <cerrno>
#include <string_view>

namespace underfoot {

// Locks the open file behind `fd` until its last descriptor is closed (flock(2), advisory). Returns why
// it cannot be used now; empty: it is locked, or lies on a file system that knows no locks.
[[nodiscard]] inline std::string_view LockFile(int fd, bool exclusive) {
  int result = 0;
  do {
    result = flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0 || errno != EWOULDBLOCK) return "";
  return exclusive ? "is in use already, by another machine or another option of this one"
                   : "is being written by another machine or by another option of this one";
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_FILE_LOCK_H_
