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
#include "mmu/base/types.h"
#include "vmm/config/run_options.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

inline constexpr char kVersion[] = "0.1.0";

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
// For `run` also: the host or the rights do not allow it; see run_end.h.
inline constexpr int kExitUsage = 2;

enum class ClientVerb : uint8_t {
  kStats,
  kCaches,
  kMemslots,
  kStage2,
  kWorkingSet,
  kDevices,
  kBalloon,
  kMemory,
  kDirty,
  kCoverage,
  kEvents,
  kChurn,
  kPause,
  kResume,
  kQuit,
  kWait
};

struct ChurnEdit {
  std::optional<std::string> spec;  // parses
  std::optional<bool> running;
  std::optional<uint64_t> seed;

  bool empty() const { return !spec.has_value() && !running.has_value() && !seed.has_value(); }
};

struct ClientCommand {
  ClientVerb verb = ClientVerb::kStats;
  std::string control;  // as given; empty: the only running machine
  bool json = false;
  bool csv = false;      // for kStats
  bool nonzero = false;  // for kStats: leave out zeroes
  std::string group;     // for kStats: show only this group; empty: all
  std::optional<std::chrono::milliseconds> watch;
  Gfn gfn;                        // for kStage2
  std::optional<uint64_t> from;   // for kEvents: the number of the first event; absent: from now on
  std::string seconds;            // for kWorkingSet: a number above 0; empty: the last scan
  bool take = false;              // for kDirty: take the pages, so that they are not shown again
  ChurnEdit churn;                // for kChurn
  std::optional<uint64_t> bytes;  // for kBalloon and kMemory: the new target
  bool wait = false;              // for kQuit: wait for the machine's end and its result
};

struct DoctorCommand {
  bool json = false;
  bool restore = false;
};

struct HelpCommand {
  std::string text;
};

using Command = std::variant<RunOptions, ClientCommand, DoctorCommand, HelpCommand>;

// `arguments` is without the program's name. An error is one line: what is wrong, and what to write
// instead or which help to read.
absl::StatusOr<Command> ParseCommandLine(const std::vector<std::string>& arguments,
                                         const SocketEnvironment& environment);

// The arguments with the program's name before them, quoted as a shell needs them.
std::string CommandLine(const std::vector<std::string>& arguments);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_COMMAND_H_
