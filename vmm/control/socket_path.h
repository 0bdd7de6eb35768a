// The paths of control sockets: one directory for each user, one socket for each running machine.
//
//   $XDG_RUNTIME_DIR/underfoot/NAME.sock    if that directory exists and belongs to the user
//   /run/user/UID/underfoot/NAME.sock       if that directory belongs to the user
//   /tmp/underfoot-UID/NAME.sock            otherwise
//
// A server uses the first one that is possible. A client searches all of them, because it may have
// been started in another environment (sudo, cron).
//
// Thread safety: pure functions of the environment that is passed in and of the file system.

#ifndef UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_
#define UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_

#include <sys/types.h>
#include <sys/un.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

struct SocketEnvironment {
  std::string xdg_runtime_dir;  // empty: not set
  uid_t uid = 0;
  std::string run_user = "/run/user";
  std::string tmp = "/tmp";

  static SocketEnvironment OfThisProcess();
};

// A name may have letters, digits, '-', '_' and '.', at most 64 of them, and must not begin with a
// dot.
absl::Status CheckVmName(std::string_view name);

// Refuses a path that does not fit into a sockaddr_un.
absl::StatusOr<sockaddr_un> SocketAddress(const std::string& path);

// The path of a machine that was started without --control.
std::string DefaultSocketPath(std::string_view name, const SocketEnvironment& environment);

// Creates the directory of a default path with mode 0700 if it does not exist; only the last component.
// Such a directory, in a place where other users can write (underfoot, underfoot-UID), must belong to
// this user and be closed to others. Any other directory is the operator's choice, and must exist.
absl::Status PrepareSocketDirectory(const std::string& path, const SocketEnvironment& environment);

// The directory of a path; "." for a path without a slash.
std::string DirectoryOf(const std::string& path);

// A process that binds or removes a socket holds this lock of its directory, until the descriptor
// is closed. Waits at most `patience`: in a directory that other users may open, they may hold the
// lock for long.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory,
                                       std::chrono::milliseconds patience);

// Removes the sockets that killed machines have left in `directory`, if it is one of this user's
// own directories. Does nothing while another process changes the directory.
void RemoveDeadSockets(const std::string& directory, const SocketEnvironment& environment);

// The sockets of this user on which a server answers, sorted. Removes the dead ones in the same
// directories.
std::vector<std::string> FindLiveSockets(const SocketEnvironment& environment);

// Finds the socket that a client means. If `control` contains a '/', it is the path. Otherwise it
// is the name of a machine (or else of a socket in the current directory). If it is empty, it is
// the only running machine.
absl::StatusOr<std::string> ResolveControl(const std::string& control,
                                           const SocketEnvironment& environment);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_SOCKET_PATH_H_
