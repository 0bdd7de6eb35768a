// What kinds of churn need of the host as a whole: swap space, KSM, compaction, a second node. What
// it does not offer as it is can be provided for the run, with the operator's leave.
//
// Thread safety: before the machine starts.

#ifndef UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_
#define UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_

#include <cstdint>

#include "vmm/churn_limits.h"
#include "vmm/host/host_changes.h"

namespace underfoot {

// Looks at what the kinds in `wanted` need. `changes`: nullptr without leave to change the host.
// What can neither be found nor provided makes its kinds unavailable, with the reason.
ChurnLimits ProvideForChurn(Backing backing, uint64_t memory_bytes, const ChurnRates& wanted,
                            HostChanges* changes);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_
