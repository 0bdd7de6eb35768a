#include "vmm/cli/wait.h"

#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "vmm/control/json.h"
#include "vmm/control/probe.h"
#include "vmm/stats/run_end.h"

namespace underfoot {

namespace {

constexpr std::chrono::milliseconds kPeriod(100);

// The machine keeps its socket for other clients that wait. After this command the user may want to
// start the next machine at the same path. Connecting to see whether a server listens does not
// count as a request.
void AwaitTheLast(const std::string& path) {
  constexpr std::chrono::milliseconds kOften(20);
  constexpr std::chrono::seconds kAtMost(6);
  const auto end = std::chrono::steady_clock::now() + kAtMost;
  while (ProbeSocket(path) == SocketProbe::kLive && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kOften);
  }
}

}  // namespace

bool PauseForLaterAnswer(const absl::Status& status, bool& said, const Output& output) {
  if (!MayAnswerLater(status)) return false;
  if (!std::exchange(said, true)) {
    output.err << absl::StrFormat("underfoot: %s; still waiting\n", std::string(status.message()));
  }
  std::this_thread::sleep_for(kPeriod);
  return true;
}

int WaitForEnd(ControlClient& client, bool json, const Output& output) {
  std::string name;
  bool said = false;
  for (;;) {
    const absl::StatusOr<Json> vm = client.Get("/v1/vm");
    if (PauseForLaterAnswer(vm.status(), said, output)) continue;
    if (!vm.ok() && name.empty()) {
      output.err << "underfoot: " << std::string(vm.status().message()) << "\n";
      return ExitCodeOf(RunEnd::kCouldNotRun);
    }
    if (!vm.ok()) {
      output.err << absl::StrFormat("underfoot: %s ended without reporting its result: %s\n", name,
                                    std::string(vm.status().message()));
      return ExitCodeOf(RunEnd::kUnfinished);
    }
    try {
      name = vm->at("name").get<std::string>();
      const Json& result = vm->at("result");
      if (result.is_null()) {
        std::this_thread::sleep_for(kPeriod);
        continue;
      }
      const int exit_code = result.at("exit_code").get<int>();
      if (json) {
        output.out << Pretty(result) << "\n" << std::flush;
        AwaitTheLast(client.path());
        return exit_code;
      }
      output.out << absl::StrFormat("%s: %s\n", name, result.at("result").get<std::string>());
      for (const Json& problem : result.at("problems")) {
        output.out << "  " << problem.get<std::string>() << "\n";
      }
      output.out << std::flush;
      AwaitTheLast(client.path());
      return exit_code;
    } catch (const Json::exception& error) {
      output.err << absl::StrFormat(
          "underfoot: the answer of %s has no result (%s); is the machine of another version?\n",
          name, error.what());
      return ExitCodeOf(RunEnd::kCouldNotRun);
    }
  }
}

}  // namespace underfoot
