// The `underfoot` program as a user starts it: a process with its output, its end and its socket.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BOOT_PROGRAM_H_
#define UNDERFOOT_TESTS_BOOT_PROGRAM_H_

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/wait_until.h"

namespace underfoot::testing {

using Arguments = std::vector<std::string>;

// Of a process: what WEXITSTATUS says, or minus the signal that ended it.
struct Ended {
  int exit = 0;
  std::string out;
  std::string err;
};

class Process {
 public:
  // `command` as a shell would take it apart; its output goes to files in `scratch`.
  Process(const std::string& scratch, const Arguments& command);
  ~Process();  // SIGKILL, if it has not ended
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // Nothing when it has not ended by then.
  std::optional<Ended> Wait(std::chrono::milliseconds limit = 6 * kDeadline);

 private:
  const std::string out_;
  const std::string err_;
  pid_t pid_ = -1;
};

// The program under test. Empty when this machine does not have it.
std::string ProgramPath();

// Runs a command to its end.
Ended RunToEnd(const std::string& scratch, const Arguments& command);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_PROGRAM_H_
