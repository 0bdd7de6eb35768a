// A listening Unix socket with mode 0600 that takes over a stale path and never a live one.
//
// Two machines that start at once on one path: the check, the removal and the bind happen under a
// lock on the directory, so that one of them gets the path and the other a clear error.
//
// Thread safety: one owner. The destructor removes the path, unless another has taken it meanwhile.

#ifndef UNDERFOOT_VMM_CONTROL_LISTENER_H_
#define UNDERFOOT_VMM_CONTROL_LISTENER_H_

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class UnixListener {
 public:
  // The lock is held for microseconds; in a directory that everybody may open, anybody may keep it.
  static constexpr std::chrono::milliseconds kPatience{2000};

  // The directory must exist (PrepareSocketDirectory). Waits for its lock, `patience` at most.
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
  const dev_t device_;  // with inode_: which file at path_ is ours
  const ino_t inode_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_LISTENER_H_
