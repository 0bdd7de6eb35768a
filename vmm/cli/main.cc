// underfoot: run a guest while its memory is moved, and ask a running one.

#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "vmm/cli/command.h"
#include "vmm/cli/program.h"
#include "vmm/cli/run.h"
#include "vmm/doctor.h"

namespace underfoot {
namespace {

// A run goes on without them, and is told what it loses.
void WarnOfTracepoints(DoctorReport report) {
  std::erase_if(report.checks,
                [](const DoctorCheck& check) { return check.name != "tracepoints"; });
  const std::string warning = DoctorWarnings(report);
  if (!warning.empty()) std::cerr << "underfoot run: " << warning;
}

// What is missing is said before anything is started, with the remedy.
int RunWhereItCanWork(const RunOptions& options) {
  DoctorReport report = RunDoctor();
  if (report.CanRun()) {
    if (options.kernel_events == KernelEvents::kAuto) WarnOfTracepoints(report);
    return RunMachine(options);
  }
  std::erase_if(report.checks,
                [](const DoctorCheck& check) { return check.result != CheckResult::kMissing; });
  std::cerr << "underfoot run: " << DoctorWarnings(report);
  return kExitFailure;
}

}  // namespace
}  // namespace underfoot

int main(int argc, char** argv) {
  // Where Abseil is built with its debug checks, as Debian's is, every lock else enters one graph
  // of the process, under one lock. The tests look for cycles.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return underfoot::RunProgram(
      std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc),
      underfoot::SocketEnvironment::OfThisProcess(),
      {.out = std::cout, .err = std::cerr, .terminal = isatty(STDOUT_FILENO) == 1},
      underfoot::RunWhereItCanWork);
}
