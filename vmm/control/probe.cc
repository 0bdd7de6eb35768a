#include "vmm/control/probe.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>

#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

SocketProbe ProbeSocket(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? SocketProbe::kAbsent : SocketProbe::kUnknown;
  }
  if (!S_ISSOCK(info.st_mode)) return SocketProbe::kNotSocket;
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return SocketProbe::kUnknown;
  // Non-blocking: if the backlog is full, connect() fails with EAGAIN, and a server is listening.
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return SocketProbe::kUnknown;
  const auto* const generic = reinterpret_cast<const sockaddr*>(&*address);
  if (connect(fd.get(), generic, sizeof(sockaddr_un)) == 0 || errno == EAGAIN) {
    return SocketProbe::kLive;
  }
  if (errno == ECONNREFUSED) return SocketProbe::kStale;
  return errno == ENOENT ? SocketProbe::kAbsent : SocketProbe::kUnknown;
}

}  // namespace underfoot
