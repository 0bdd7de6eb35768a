// Where control sockets live: one directory a user, one socket a running machine.
//
//   $XDG_RUNTIME_DIR/underfoot/NAME.sock    when XDG_RUNTIME_DIR is set
//   /run/user/UID/underfoot/NAME.sock       when that directory is the user's own
//   /tmp/underfoot-UID/NAME.sock            otherwise
//
// A server takes the first that applies; a client looks into all of them, because it may have been
// started from another environment (sudo, cron).
//
// Thread safety: pure functions of the environment that is passed in and of the file system.

#ifndef UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_
#define UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_

#include <sys/types.h>
#include <sys/un.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace underfoot {

struct SocketEnvironment {
  std::string xdg_runtime_dir;  // empty: not set
  uid_t uid = 0;
  std::string run_user = "/run/user";
  std::string tmp = "/tmp";

  static SocketEnvironment OfThisProcess();
};

// Letters, digits, '-', '_' and '.', at most 64, no dot first.
absl::Status CheckVmName(std::string_view name);

// Refuses what does not fit into a sockaddr_un.
absl::StatusOr<sockaddr_un> SocketAddress(const std::string& path);

// The path of a machine that was given no --control.
std::string DefaultSocketPath(std::string_view name, const SocketEnvironment& environment);

// Makes the directory of `path` with mode 0700 when it is not there, one level deep. A directory
// of ours in a place where others write (underfoot, underfoot-UID) must belong to this user and be
// closed to others; any other directory that is there already is the operator's choice.
absl::Status PrepareSocketDirectory(const std::string& path, const SocketEnvironment& environment);

// The sockets of this user that a server answers on, sorted.
std::vector<std::string> FindLiveSockets(const SocketEnvironment& environment);

// The socket that a client means: `control` itself when it has a '/', the machine of that name when
// it has none (or else a socket in the current directory), and the only running machine when it is
// empty.
absl::StatusOr<std::string> ResolveControl(const std::string& control,
                                           const SocketEnvironment& environment);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_
