#include "vmm/control/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/control/probe.h"
#include "vmm/control/socket_path.h"

namespace underfoot {
namespace {

constexpr int kBacklog = 64;

absl::Status Failed(std::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrFormat("control socket %s: %s: %s", path, what, ErrnoText(error)));
}

absl::Status CheckNotBusy(SocketProbe probe, const std::string& path) {
  switch (probe) {
    case SocketProbe::kAbsent:
    case SocketProbe::kStale:
      return absl::OkStatus();
    case SocketProbe::kLive:
      return absl::AlreadyExistsError(absl::StrFormat(
          "control path %s is busy: a machine answers there; quit it with underfoot "
          "quit --control %s, or use another --name or --control PATH",
          path, path));
    case SocketProbe::kNotSocket:
      return absl::AlreadyExistsError(absl::StrFormat(
          "control path %s exists and is not a socket; use another --control PATH", path));
    case SocketProbe::kUnknown:
      return absl::PermissionDeniedError(
          absl::StrFormat("control path %s exists and cannot be examined; use another --control "
                          "PATH",
                          path));
  }
  return absl::InternalError("unreachable");
}

}  // namespace

absl::Status CheckPathIsFree(const std::string& path) {
  return CheckNotBusy(ProbeSocket(path), path);
}

absl::StatusOr<std::unique_ptr<UnixListener>> UnixListener::Bind(
    const std::string& path, std::chrono::milliseconds patience) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return address.status();
  const absl::StatusOr<UniqueFd> lock = LockDirectory(DirectoryOf(path), patience);
  if (!lock.ok()) return lock.status();
  const SocketProbe probe = ProbeSocket(path);
  if (absl::Status free = CheckNotBusy(probe, path); !free.ok()) return free;
  if (probe == SocketProbe::kStale && unlink(path.c_str()) != 0) {
    return Failed("cannot remove the stale socket", path, errno);
  }

  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failed("socket", path, errno);
  // Called before bind: Linux gives the path the mode of the socket, so that the path is never open
  // to other users.
  if (fchmod(fd.get(), 0600) != 0) return Failed("fchmod", path, errno);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(sockaddr_un)) != 0) {
    return Failed("bind", path, errno);
  }
  struct stat info {};
  if (listen(fd.get(), kBacklog) != 0 || lstat(path.c_str(), &info) != 0) {
    const int error = errno;
    static_cast<void>(unlink(path.c_str()));
    return Failed("listen", path, error);
  }
  return std::unique_ptr<UnixListener>(
      new UnixListener(path, std::move(fd), info.st_dev, info.st_ino));
}

UnixListener::UnixListener(std::string path, UniqueFd fd, dev_t device, ino_t inode)
    : path_(std::move(path)), fd_(std::move(fd)), device_(device), inode_(inode) {}

UnixListener::~UnixListener() {
  // While fd_ still listens, no process considers the path stale. So the file examined here is the
  // file that is removed, unless a person has removed ours by hand.
  struct stat info {};
  if (lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) {
    static_cast<void>(unlink(path_.c_str()));
  }
}

}  // namespace underfoot
