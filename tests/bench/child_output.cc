#include "tests/bench/child_output.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "tests/bench/stopwatch.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {
namespace {

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command,
                            const posix_spawn_file_actions_t* actions) {
  std::vector<std::string> strings = command;
  std::vector<char*> arguments;
  for (std::string& argument : strings) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, arguments[0], actions, nullptr, arguments.data(), environ);
  if (error != 0) return absl::ErrnoToStatus(error, "cannot start " + command[0]);
  return pid;
}

// Standard output to the pipe, errors to nowhere.
absl::StatusOr<pid_t> SpawnWithOutput(const std::vector<std::string>& command, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  absl::StatusOr<pid_t> pid = Spawn(command, &actions);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

// Returns the wait status of the program, which has ended.
int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

// The peak of a process's resident memory. wait4's would be that of the process that started it, if that
// was larger.
double PeakBytes(pid_t pid) {
  std::ifstream status(absl::StrFormat("/proc/%d/status", pid));
  constexpr std::string_view kKey = "VmHWM:";
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kKey)) return 1024 * std::strtod(line.c_str() + kKey.size(), nullptr);
  }
  return 0;
}

// Reads to the end. False: without the marker. An empty marker comes at the end.
bool ReadUntilEnd(int input, pid_t pid, std::string_view marker, const Stopwatch& watch,
                  ChildRun& run) {
  bool found = false;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t bytes = read(input, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) break;
    run.output.append(buffer.data(), static_cast<size_t>(bytes));
    if (found || marker.empty() || run.output.find(marker) == std::string::npos) continue;
    run.ns = watch.ElapsedNs();
    run.peak_bytes = PeakBytes(pid);
    found = true;
  }
  if (marker.empty()) run.ns = watch.ElapsedNs();
  return found || marker.empty();
}

}  // namespace

absl::StatusOr<ChildRun> RunChild(const std::vector<std::string>& command,
                                  std::string_view marker) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const UniqueFd input(ends[0]);
  UniqueFd output(ends[1]);
  const Stopwatch watch;
  const absl::StatusOr<pid_t> pid = SpawnWithOutput(command, output.get());
  if (!pid.ok()) return pid.status();
  output.Reset();
  ChildRun run;
  const bool found = ReadUntilEnd(input.get(), *pid, marker, watch, run);
  const int status = WaitFor(*pid);
  if (!found) {
    return absl::UnavailableError(absl::StrFormat("%s ended with status 0x%x and without '%s'",
                                                  command[0], status, std::string(marker)));
  }
  return run;
}

absl::Status RunToEnd(const std::vector<std::string>& command) {
  const absl::StatusOr<pid_t> pid = Spawn(command, nullptr);
  if (!pid.ok()) return pid.status();
  const int status = WaitFor(*pid);
  if (status == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("%s ended with status 0x%x", command[0], status));
}

absl::StatusOr<double> NsUntilOutput(const std::vector<std::string>& command,
                                     std::string_view marker) {
  const absl::StatusOr<ChildRun> run = RunChild(command, marker);
  if (!run.ok()) return run.status();
  return run->ns;
}

std::string Sibling(std::string_view name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / name).string();
}

}  // namespace underfoot::bench
