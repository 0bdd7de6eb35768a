// The routes of the control socket: a table of routes over a ControlTarget.
//
//   GET  /v1                the routes
//   GET  /v1/vm             PUT {"state": "paused" | "running" | "quit"}
//   GET  /v1/stats
//   GET  /v1/caches
//   GET  /v1/memslots
//   GET  /v1/stage2?gfn=N   decimal or 0x...
//   GET  /v1/events?from=N  server-sent events; the header Last-Event-ID: N continues after N
//   GET  /v1/churn          PUT {"running", "seed", "rates" or "spec"}
//   GET  /metrics           Prometheus text
//
// HEAD works for every route that has GET. An error is {"error": {"status": 404, "message":
// "..."}}, and its message says what to do.
//
// Thread safety: that of the target.

#ifndef UNDERFOOT_VMM_CONTROL_ROUTES_H_
#define UNDERFOOT_VMM_CONTROL_ROUTES_H_

#include <string_view>

#include "vmm/control/http.h"
#include "vmm/control/target.h"

namespace underfoot {

HttpReply Answer(ControlTarget& target, const HttpRequest& request);

HttpReply ErrorReply(int status, std::string_view message);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_ROUTES_H_
