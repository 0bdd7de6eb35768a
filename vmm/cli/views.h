// Formats the answers of the control socket as tables for people.
//
// The functions read JSON and not the structs, so that a client also shows fields that a newer
// machine has added. If the JSON has an unexpected form, nlohmann's exception is thrown; RunClient
// turns it into an error.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CLI_VIEWS_H_
#define UNDERFOOT_VMM_CLI_VIEWS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vmm/control/json.h"

namespace underfoot {

struct StatsLook {
  std::string group = {};  // show only this group; empty: all
  bool nonzero = false;    // leave out zeroes
  size_t rows = 0;         // at most this many lines, the fastest changes first; 0: all
};

// With `before`, an earlier answer of the same machine, the table also shows the increase of each
// counter per second.
std::string StatsView(const Json& now, const Json* before, const StatsLook& look = {});
// A line of numbers, each as in the JSON. If `names` is empty, it is filled with the names in
// `now`, and a line of names comes first.
std::string StatsCsv(const Json& now, const StatsLook& look, std::vector<std::string>* names);
std::string CachesView(const Json& answer);
std::string MemslotsView(const Json& answer);
std::string Stage2View(const Json& walk);
std::string WorkingSetView(const Json& set);
std::string DevicesView(const Json& answer);
std::string BalloonView(const Json& answer);
// Whether a guest that has not what the host asks for may still be on its way there.
inline constexpr uint64_t kGuestPatienceUs = 2'000'000;
// What the host asks the guest for, and what the guest has reached: names of fields.
struct GuestTarget {
  const char* asked;
  const char* reached;
};
inline constexpr GuestTarget kBalloonTarget{"target_bytes", "actual_bytes"};
inline constexpr GuestTarget kMemoryTarget{"requested_bytes", "plugged_bytes"};
// Whether the guest has not reached what it was asked for.
bool GuestIsOff(const Json& answer, const GuestTarget& target);
bool GuestMoves(const Json& answer, const GuestTarget& target);
std::string MemoryView(const Json& answer);
std::string DirtyView(const Json& dirty);
// The pages of a take: a line for each range of guest frames, its end not included.
std::string TakenView(const Json& taken);
std::string CoverageView(const Json& coverage);
// One event of /v1/events, without the end of the line.
std::string EventLine(const Json& event);
std::string ChurnView(const Json& churn);
std::string VmView(const Json& vm);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_VIEWS_H_
