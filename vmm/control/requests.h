// Parses the bodies of PUT requests, which may come from any program.
//
// Every error names the wrong member and the allowed values. Unknown members are errors.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CONTROL_REQUESTS_H_
#define UNDERFOOT_VMM_CONTROL_REQUESTS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "vmm/config/churn_limits.h"
#include "vmm/control/target.h"

namespace underfoot {

// The state that PUT /v1/vm requests.
enum class VmRequest : uint8_t { kPause, kResume, kQuit };

// {"state": "paused" | "running" | "quit"}
absl::StatusOr<VmRequest> ParseVmRequest(std::string_view body);

// {"target_bytes": n}
absl::StatusOr<uint64_t> ParseBalloonRequest(std::string_view body);
// {"requested_bytes": n}
absl::StatusOr<uint64_t> ParseHotplugRequest(std::string_view body);

// {"running": bool, "seed": n, "rates": {kind: per second}}, each optional; "spec": "mixed" in
// place of "rates". Kinds that `limits` exclude are refused by name.
absl::StatusOr<ChurnRequest> ParseChurnRequest(std::string_view body, const ChurnLimits& limits);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_REQUESTS_H_
