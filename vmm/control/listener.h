// A listening Unix socket with mode 0600. It replaces a stale socket at its path and never a live
// one.
//
// If two machines start on the same path at the same time, one of them gets the path and the other
// a clear error: the check, the removal and the bind happen under a lock on the directory.
//
// Thread safety: one owner. The destructor removes the path, unless another process has replaced
// the file.

#ifndef UNDERFOOT_VMM_CONTROL_LISTENER_H_
#define UNDERFOOT_VMM_CONTROL_LISTENER_H_

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

// Refuses a path at which a machine answers, or a file that is no socket. A precheck outside of Bind: the
// answer may be outdated at once.
[[nodiscard]] absl::Status CheckPathIsFree(const std::string& path);

class UnixListener {
 public:
  // The lock is normally held for microseconds. In a directory that other users may open, any of
  // them may hold it for longer.
  static constexpr std::chrono::milliseconds kPatience{2000};

  // The directory must exist (PrepareSocketDirectory). Waits at most `patience` for its lock.
  static absl::StatusOr<std::unique_ptr<UnixListener>> Bind(
      const std::string& path, std::chrono::milliseconds patience = kPatience);
  ~UnixListener();
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

  // Non-blocking.
  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  UnixListener(std::string path, UniqueFd fd, dev_t device, ino_t inode);

  const std::string path_;
  const UniqueFd fd_;
  const dev_t device_;  // device_ and inode_ identify our file at path_
  const ino_t inode_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_LISTENER_H_
