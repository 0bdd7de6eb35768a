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

// The machine keeps its socket for other clients that wait. After this command the user may want to
// start the next machine at the same path. Connecting to see whether a server listens does not
// count as a request.
void AwaitTheLast(const std::string& path) {
  constexpr std::chrono::milliseconds kPeriod(20);
  constexpr std::chrono::seconds kAtMost(6);
  const auto end = std::chrono::steady_clock::now() + kAtMost;
  while (ProbeSocket(path) == SocketProbe::kLive && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kPeriod);
  }
}

}  // namespace

int WaitForEnd(ControlClient& client, bool json, const Output& output) {
  constexpr std::chrono::milliseconds kPeriod(100);
  std::string name;
  bool waits_silently = false;
  for (;; std::this_thread::sleep_for(kPeriod)) {
    const absl::StatusOr<Json> vm = client.Get("/v1/vm");
    if (MayAnswerLater(vm.status())) {
      if (!std::exchange(waits_silently, true)) {
        output.err << absl::StrFormat("underfoot: %s; still waiting\n",
                                      std::string(vm.status().message()));
      }
      continue;
    }
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
      if (result.is_null()) continue;
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
