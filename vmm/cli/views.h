// The answers of the control socket as tables for people.
//
// They read JSON and not the structs, so that a client also shows what a newer machine has added.
// What is not as expected throws nlohmann's exception; RunClient turns it into an error.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CLI_VIEWS_H_
#define UNDERFOOT_VMM_CLI_VIEWS_H_

#include <string>

#include "vmm/control/json.h"

namespace underfoot {

// With `before`, an earlier answer of the same machine, also what each counter gained per second.
std::string StatsView(const Json& now, const Json* before);
std::string CachesView(const Json& answer);
std::string MemslotsView(const Json& answer);
std::string Stage2View(const Json& walk);
std::string WorkingSetView(const Json& set);
std::string CoverageView(const Json& coverage);
// One event of /v1/events, without the end of the line.
std::string EventLine(const Json& event);
std::string ChurnView(const Json& churn);
std::string VmView(const Json& vm);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_VIEWS_H_
