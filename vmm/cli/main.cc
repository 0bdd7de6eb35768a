// The `underfoot` program: runs a guest while its memory is moved, and queries a running machine.

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/synchronization/mutex.h"
#include "vmm/cli/command.h"
#include "vmm/cli/doctor.h"
#include "vmm/cli/output.h"
#include "vmm/cli/program.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_arguments.h"
#include "vmm/cli/summary.h"
#include "vmm/stats/run_end.h"

namespace underfoot {
namespace {

// Reports what is missing, with the remedy, before anything is started.
int RunWhereItCanWork(const RunOptions& options) {
  DoctorReport report = CheckNeeds();
  if (report.CanRun()) {
    for (const std::string& note : NotesOn(options, AvailableBytes())) {
      std::cerr << "underfoot run: " << note << "\n";
    }
    return RunMachine(options);
  }
  std::erase_if(report.checks,
                [](const DoctorCheck& check) { return check.result != CheckResult::kMissing; });
  std::string missing = DoctorWarnings(report);
  std::cerr << DoctorWarnings(report, "underfoot run: ");
  absl::StripTrailingAsciiWhitespace(&missing);
  if (options.json) {
    const Output output{.out = std::cout, .err = std::cerr};
    static_cast<void>(Print(output, StartFailureJson(options, missing)));
  }
  return ExitCodeOf(RunEnd::kCouldNotRun);
}

size_t TerminalRows() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_row : 0;
}

}  // namespace
}  // namespace underfoot

int main(int argc, char** argv) {
  underfoot::MakeWriteErrorsVisible();
  // If Abseil is built with its debug checks, as in Debian, every other lock operation enters one
  // graph of the process, under one lock. The tests look for lock cycles instead.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return underfoot::RunProgram(
      std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc),
      underfoot::SocketEnvironment::OfThisProcess(),
      {.out = std::cout,
       .err = std::cerr,
       .terminal = underfoot::InterpretsEscapes(isatty(STDOUT_FILENO) == 1, getenv("TERM")),
       .rows = underfoot::TerminalRows},
      underfoot::RunWhereItCanWork);
}
