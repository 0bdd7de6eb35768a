#include "tests/bench/child_output.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>

#include "absl/strings/str_format.h"
#include "tests/bench/stopwatch.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {
namespace {

// Standard output to the pipe, errors to nowhere.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, int output) {
  std::vector<std::string> strings = command;
  std::vector<char*> arguments;
  for (std::string& argument : strings) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return absl::ErrnoToStatus(error, "cannot start " + command[0]);
  return pid;
}

// Reads to the end.
std::optional<double> TimeOfMarker(int input, std::string_view marker, const Stopwatch& watch) {
  std::optional<double> found;
  std::string seen;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t bytes = read(input, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) break;
    if (found.has_value()) continue;
    seen.append(buffer.data(), static_cast<size_t>(bytes));
    if (!marker.empty() && seen.find(marker) != std::string::npos) found = watch.ElapsedNs();
  }
  if (marker.empty()) return watch.ElapsedNs();
  return found;
}

}  // namespace

absl::StatusOr<double> NsUntilOutput(const std::vector<std::string>& command,
                                     std::string_view marker) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const UniqueFd input(ends[0]);
  UniqueFd output(ends[1]);
  const Stopwatch watch;
  const absl::StatusOr<pid_t> pid = Spawn(command, output.get());
  if (!pid.ok()) return pid.status();
  output.Reset();
  const std::optional<double> found = TimeOfMarker(input.get(), marker, watch);
  int status = 0;
  while (waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (found.has_value()) return *found;
  return absl::UnavailableError(absl::StrFormat("%s ended with status 0x%x and without '%s'",
                                                command[0], status, std::string(marker)));
}

std::string Sibling(std::string_view name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / name).string();
}

}  // namespace underfoot::bench
