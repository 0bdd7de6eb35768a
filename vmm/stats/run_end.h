// The result of a run, and its description.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_RUN_END_H_
#define UNDERFOOT_VMM_STATS_RUN_END_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace underfoot {

// Ordered by severity: if several apply to a run, the last one counts.
enum class RunEnd : uint8_t {
  kPassed,
  kRebooted,     // a Linux guest asked for a reset; nothing was wrong
  kUnfinished,   // no verdict in time, interrupted, churn or record ended early
  kCouldNotRun,  // an option, the host, rights
  kWrong,        // a mismatch, an unexplained difference, a lost operation, a leak
};

constexpr std::string_view RunEndName(RunEnd end) {
  constexpr std::array<std::string_view, 5> kNames = {"passed", "rebooted", "did not finish",
                                                      "could not run", "wrong"};
  return kNames[static_cast<size_t>(end)];
}

// The exit code of the process.
constexpr int ExitCodeOf(RunEnd end) {
  constexpr std::array<int, 5> kCodes = {0, 4, 3, 2, 1};
  return kCodes[static_cast<size_t>(end)];
}

struct RunProblem {
  RunEnd end = RunEnd::kWrong;
  std::string text;  // one line
};

// The result of repeating recorded churn.
struct ReplayStats {
  uint64_t recorded = 0;  // operations in the script
  uint64_t repeated = 0;  // operations that were repeated; the others were not due before the end
  uint64_t differences = 0;
  std::string first;  // "line 17, at 5ms: discard of ...: done; this time discard of ...: declined"
};

// What a run reports to waiting clients before it removes its socket.
struct RunResult {
  RunEnd end = RunEnd::kPassed;
  std::vector<std::string> problems;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_RUN_END_H_
