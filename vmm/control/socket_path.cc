#include "vmm/control/socket_path.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/control/probe.h"

namespace underfoot {
namespace {

constexpr std::string_view kSuffix = ".sock";

// Follows a link: the owner of the directory matters, not that of the link.
bool IsOwnDirectory(const std::string& path, uid_t uid) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == uid;
}

// The possible directories, in the order of preference.
std::vector<std::string> SocketDirectories(const SocketEnvironment& environment) {
  std::vector<std::string> directories;
  // The variable may have been inherited from another user (su, sudo -E), or its directory may not
  // exist any more. A directory of ours in another user's directory would be in that user's way. A
  // relative path is ignored.
  if (environment.xdg_runtime_dir.starts_with('/') &&
      IsOwnDirectory(environment.xdg_runtime_dir, environment.uid)) {
    directories.push_back(environment.xdg_runtime_dir + "/underfoot");
  }
  const std::string run_user = absl::StrFormat("%s/%u", environment.run_user, environment.uid);
  if (IsOwnDirectory(run_user, environment.uid)) directories.push_back(run_user + "/underfoot");
  directories.push_back(absl::StrFormat("%s/underfoot-%u", environment.tmp, environment.uid));
  return directories;
}

absl::Status CheckOwnDirectory(const std::string& directory, uid_t uid) {
  struct stat info {};
  if (lstat(directory.c_str(), &info) != 0) {
    return absl::UnavailableError(
        absl::StrFormat("control directory %s: %s", directory, std::strerror(errno)));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "control directory %s is not a directory; remove it or use --control PATH", directory));
  }
  if (info.st_uid != uid) {
    return absl::PermissionDeniedError(
        absl::StrFormat("control directory %s belongs to user %u and not to %u; remove it or use "
                        "--control PATH",
                        directory, info.st_uid, uid));
  }
  const mode_t mode = info.st_mode & 0777;
  if ((mode & 077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrFormat("control directory %s has mode %04o, so that others could reach the "
                        "sockets in it; chmod 0700 %s",
                        directory, mode, directory));
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, SocketProbe>> SocketsIn(const std::string& directory) {
  std::vector<std::pair<std::string, SocketProbe>> sockets;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (const std::filesystem::directory_iterator end; !error && entry != end;
       entry.increment(error)) {
    const std::string& path = entry->path().native();
    if (path.ends_with(kSuffix)) sockets.emplace_back(path, ProbeSocket(path));
  }
  return sockets;
}

std::string ListOf(const std::vector<std::string>& items) {
  std::string list;
  for (const std::string& item : items) {
    if (!list.empty()) list += ", ";
    list += item;
  }
  return list;
}

}  // namespace

SocketEnvironment SocketEnvironment::OfThisProcess() {
  const char* const xdg = std::getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe)
  SocketEnvironment environment;
  if (xdg != nullptr) environment.xdg_runtime_dir = xdg;
  environment.uid = geteuid();
  return environment;
}

absl::Status CheckVmName(std::string_view name) {
  constexpr size_t kMaxName = 64;
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  if (!name.empty() && name.size() <= kMaxName && name.front() != '.' &&
      name.find_first_not_of(kAllowed) == std::string_view::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("name '%s' must be 1 to %u letters, digits, '-', '_' or '.', and not begin "
                      "with a dot",
                      name.substr(0, 80), kMaxName));
}

absl::StatusOr<sockaddr_un> SocketAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("control path is empty or holds a NUL byte");
  }
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("control path %s has %u bytes; a Unix socket takes at most %u: use a "
                        "shorter --control PATH",
                        path, path.size(), sizeof(address.sun_path) - 1));
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string DefaultSocketPath(std::string_view name, const SocketEnvironment& environment) {
  return absl::StrFormat("%s/%s%s", SocketDirectories(environment).front(), name, kSuffix);
}

absl::Status PrepareSocketDirectory(const std::string& path, const SocketEnvironment& environment) {
  const std::string directory = DirectoryOf(path);
  const std::vector<std::string> ours = SocketDirectories(environment);
  const bool own = std::find(ours.begin(), ours.end(), directory) != ours.end();
  if (own && (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST)) {
    return CheckOwnDirectory(directory, environment.uid);
  }
  if (!own && access(directory.c_str(), F_OK) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("the control directory %s cannot be used: %s; create it, or "
                      "give --control a path in an existing directory",
                      directory, std::strerror(errno)));
}

absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory,
                                       std::chrono::milliseconds patience) {
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return absl::UnavailableError(
        absl::StrFormat("cannot open the control directory %s: %s", directory, ErrnoText(errno)));
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return absl::UnavailableError(absl::StrFormat("cannot lock the control directory %s: %s",
                                                    directory, std::strerror(errno)));
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::UnavailableError(
          absl::StrFormat("another process keeps the control directory %s locked; use "
                          "--control PATH in a directory of your own",
                          directory));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fd;
}

std::vector<std::string> FindLiveSockets(const SocketEnvironment& environment) {
  std::vector<std::string> sockets;
  for (const std::string& directory : SocketDirectories(environment)) {
    // A directory that other users can write to could contain a socket that imitates ours.
    if (!CheckOwnDirectory(directory, environment.uid).ok()) continue;
    bool any_dead = false;
    for (const auto& [path, probe] : SocketsIn(directory)) {
      if (probe == SocketProbe::kLive) sockets.push_back(path);
      any_dead = any_dead || probe == SocketProbe::kStale;
    }
    if (any_dead) RemoveDeadSockets(directory, environment);
  }
  std::sort(sockets.begin(), sockets.end());
  sockets.erase(std::unique(sockets.begin(), sockets.end()), sockets.end());
  return sockets;
}

void RemoveDeadSockets(const std::string& directory, const SocketEnvironment& environment) {
  const std::vector<std::string> ours = SocketDirectories(environment);
  if (std::find(ours.begin(), ours.end(), directory) == ours.end() ||
      !CheckOwnDirectory(directory, environment.uid).ok()) {
    return;
  }
  // Under the lock: a socket that a starting machine has bound, but does not listen on yet, looks
  // dead.
  const absl::StatusOr<UniqueFd> lock = LockDirectory(directory, std::chrono::milliseconds(0));
  if (!lock.ok()) return;  // the next start or client removes them
  for (const auto& [path, probe] : SocketsIn(directory)) {
    if (probe == SocketProbe::kStale) static_cast<void>(unlink(path.c_str()));
  }
}

absl::StatusOr<std::string> ResolveControl(const std::string& control,
                                           const SocketEnvironment& environment) {
  if (control.find('/') != std::string::npos) return control;
  const std::vector<std::string> live = FindLiveSockets(environment);
  if (!control.empty()) {
    for (const std::string& path : live) {
      if (path.ends_with(absl::StrFormat("/%s%s", control, kSuffix))) return path;
    }
    const SocketProbe here = ProbeSocket(control);
    if (here == SocketProbe::kLive) return control;
    return absl::NotFoundError(
        absl::StrFormat("no machine named %s runs%s; running: %s", control,
                        here == SocketProbe::kStale
                            ? ", and no program answers at the socket of that name in this folder"
                            : "",
                        live.empty() ? "none" : ListOf(live)));
  }
  if (live.size() == 1) return live.front();
  if (live.empty()) {
    return absl::NotFoundError(absl::StrFormat(
        "no machine runs (looked into %s); start one with underfoot run, or give its --control "
        "PATH",
        ListOf(SocketDirectories(environment))));
  }
  return absl::FailedPreconditionError(
      absl::StrFormat("%u machines run; choose one with --control: %s", live.size(), ListOf(live)));
}

}  // namespace underfoot
