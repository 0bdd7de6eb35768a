// The JSON of the control socket. Names never change, and new ones may be added. The order is that
// of the structs.
//
// Frame numbers (gfn, pfn) and counts are JSON numbers; byte addresses (gpa, hva) and raw entries
// are strings like "0x7f0000001000", because people read them and some JSON readers stop at 2^53.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CONTROL_JSON_H_
#define UNDERFOOT_VMM_CONTROL_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/control/target.h"
#include "vmm/stats/stats.h"

namespace underfoot {

using Json = nlohmann::ordered_json;

Json ToJson(const LatencySnapshot& latency);
Json ToJson(const Stats& stats);
Json ToJson(const std::vector<CacheInfo>& caches);      // {"caches": [...]}
Json ToJson(const std::vector<MemslotInfo>& memslots);  // {"memslots": [...]}
Json ToJson(const Stage2Walk& walk);
Json ToJson(const VmInfo& vm);
// {"sees": "accesses" or "writes", ..., "touched": pages, "slots": [...]}
Json ToJson(const WorkingSetInfo& set);
Json ToJson(const DirtyInfo& dirty);
Json ToJson(const DirtyPages& taken);
// {"sources": {...}, "kinds": [a row a kind], "others": {...}}
Json ToJson(const CoverageMatrix& matrix);
Json ToJson(const AllDevices& devices);
Json ToJson(const BalloonInfo& info);
Json ToJson(const HotplugStats& hotplug);
Json ToJson(const EventInfo& event);
Json ToJson(const ChurnState& churn);
Json ToJson(const ChurnRequest& request);  // the body that ParseChurnRequest reads

// The result is Json::is_discarded() if the text is not JSON. The parser is a large template: of
// the control socket and the commands, only json.cc compiles it.
Json ParseJson(std::string_view text);

// One line. Bytes that are not UTF-8 do not make it fail.
std::string Dump(const Json& json);
// Indented, for people.
std::string Pretty(const Json& json);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_JSON_H_
