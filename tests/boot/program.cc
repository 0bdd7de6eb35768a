#include "tests/boot/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <iterator>

namespace underfoot::testing {
namespace {

// A name of its own for the output of each process.
std::string FreshName(const std::string& scratch, const char* kind) {
  static std::atomic<int> number{0};
  return scratch + "/" + kind + std::to_string(number++);
}

std::string ContentOf(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Process::Process(const std::string& scratch, const Arguments& command)
    : out_(FreshName(scratch, "out")), err_(FreshName(scratch, "err")) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out_.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err_.c_str(), O_WRONLY | O_CREAT, 0600);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  // As from a shell, also if the test was started by nohup or in the background.
  sigset_t usual;
  sigemptyset(&usual);
  for (const int signal : {SIGHUP, SIGINT, SIGPIPE}) sigaddset(&usual, signal);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int error = posix_spawnp(&pid_, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  EXPECT_EQ(error, 0) << "cannot start " << command[0];
  if (error != 0) pid_ = -1;
}

Process::~Process() {
  if (pid_ < 0) return;
  Signal(SIGKILL);
  static_cast<void>(waitpid(pid_, nullptr, 0));
}

void Process::Signal(int signal) const { EXPECT_EQ(kill(pid_, signal), 0); }

std::optional<Ended> Process::Wait(std::chrono::milliseconds limit) {
  int status = 0;
  const bool ended =
      pid_ >= 0 && WaitUntil([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, limit);
  if (!ended) return std::nullopt;
  pid_ = -1;
  return Ended{.exit = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
               .out = ContentOf(out_),
               .err = ContentOf(err_)};
}

std::string ProgramPath() { return access(UNDERFOOT_PROGRAM, X_OK) == 0 ? UNDERFOOT_PROGRAM : ""; }

Ended RunToEnd(const std::string& scratch, const Arguments& command) {
  Process process(scratch, command);
  const std::optional<Ended> ended = process.Wait();
  EXPECT_TRUE(ended.has_value()) << command[0] << " hangs";
  return ended.value_or(Ended{.exit = -1, .out = "", .err = "hangs"});
}

}  // namespace underfoot::testing
