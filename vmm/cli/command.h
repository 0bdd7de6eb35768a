// The command line of `underfoot`, parsed and checked.
//
// Thread safety: pure functions of their arguments.

#ifndef UNDERFOOT_VMM_CLI_COMMAND_H_
#define UNDERFOOT_VMM_CLI_COMMAND_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "vmm/control/socket_path.h"
#include "vmm/run_options.h"

namespace underfoot {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

enum class ClientVerb : uint8_t {
  kStats,
  kCaches,
  kMemslots,
  kStage2,
  kWorkingSet,
  kCoverage,
  kEvents,
  kChurn,
  kPause,
  kResume,
  kQuit
};

struct ChurnEdit {
  std::optional<std::string> spec;  // parses
  std::optional<bool> running;
  std::optional<uint64_t> seed;

  bool empty() const { return !spec.has_value() && !running.has_value() && !seed.has_value(); }
};

struct ClientCommand {
  ClientVerb verb = ClientVerb::kStats;
  std::string control;  // as given; empty: the only machine that runs
  bool json = false;
  std::optional<std::chrono::milliseconds> watch;
  Gfn gfn;                       // of kStage2
  std::optional<uint64_t> from;  // of kEvents: the number of the first; absent: from now on
  std::string seconds;           // of kWorkingSet: a number above 0; empty: the last scan's
  ChurnEdit churn;               // of kChurn
};

struct DoctorCommand {
  bool json = false;
  bool restore = false;
};

struct HelpCommand {
  std::string text;
};

using Command = std::variant<RunOptions, ClientCommand, DoctorCommand, HelpCommand>;

// `arguments` without the program's name. An error is one line: what is wrong, and what to write
// or which help to read.
absl::StatusOr<Command> ParseCommandLine(const std::vector<std::string>& arguments,
                                         const SocketEnvironment& environment);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_COMMAND_H_
