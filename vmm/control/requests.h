// The bodies of PUT requests: what an operator, or anybody else, sends.
//
// Every error names the member that is wrong and what it must be. Unknown members are errors.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CONTROL_REQUESTS_H_
#define UNDERFOOT_VMM_CONTROL_REQUESTS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "vmm/churn_limits.h"
#include "vmm/control/target.h"

namespace underfoot {

// What PUT /v1/vm asks for.
enum class VmRequest : uint8_t { kPause, kResume, kQuit };

// {"state": "paused" | "running" | "quit"}
absl::StatusOr<VmRequest> ParseVmRequest(std::string_view body);

// {"running": bool, "seed": n, "rates": {kind: per second}}, each optional; "spec": "mixed" in
// place of "rates". Kinds that are beyond `limits` are refused by name.
absl::StatusOr<ChurnRequest> ParseChurnRequest(std::string_view body, const ChurnLimits& limits);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_REQUESTS_H_
