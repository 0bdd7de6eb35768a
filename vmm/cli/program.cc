#include "vmm/cli/program.h"

#include <algorithm>
#include <variant>

#include "vmm/cli/command.h"
#include "vmm/cli/doctor.h"
#include "vmm/cli/summary.h"
#include "vmm/host/host_journal.h"

namespace underfoot {
namespace {

int Doctor(const DoctorCommand& command, const Output& output) {
  if (command.restore) {
    const absl::StatusOr<RestoredHost> restored = HostJournal::RestoreLeftovers();
    if (!restored.ok()) {
      output.err << "underfoot doctor: " << std::string(restored.status().message()) << "\n";
      return kExitFailure;
    }
    for (const std::string& line : restored->put_back) output.err << "put back: " << line << "\n";
    for (const std::string& line : restored->left_alone) {
      output.err << "left alone: " << line << "\n";
    }
  }
  const DoctorReport report = RunDoctor();
  if (!Print(output, command.json ? DoctorJson(report) : DoctorText(report))) return kExitFailure;
  return report.CanRun() ? kExitOk : kExitFailure;
}

struct Dispatch {
  const SocketEnvironment& environment;
  const Output& output;
  const std::function<int(const RunOptions&)>& run;

  int operator()(const RunOptions& options) const { return run(options); }
  int operator()(const ClientCommand& command) const {
    return RunClient(command, environment, output);
  }
  int operator()(const DoctorCommand& command) const { return Doctor(command, output); }
  int operator()(const HelpCommand& command) const {
    return Print(output, command.text) ? kExitOk : kExitFailure;
  }
};

}  // namespace

int RunProgram(const std::vector<std::string>& arguments, const SocketEnvironment& environment,
               const Output& output, const std::function<int(const RunOptions&)>& run) {
  const absl::StatusOr<Command> command = ParseCommandLine(arguments, environment);
  if (!command.ok()) {
    const std::string why(command.status().message());
    output.err << "underfoot: " << why << "\n";
    // A program that reads the JSON of a run gets one for each refusal.
    if (!arguments.empty() && arguments.front() == "run" &&
        std::find(arguments.begin(), arguments.end(), "--json") != arguments.end()) {
      static_cast<void>(Print(output, UsageFailureJson(CommandLine(arguments), why)));
    }
    return kExitUsage;
  }
  return std::visit(Dispatch{environment, output, run}, *command);
}

}  // namespace underfoot
