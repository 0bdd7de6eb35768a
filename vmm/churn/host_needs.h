// Provides what kinds of churn need from the host as a whole: swap space, KSM, compaction, a second
// node. If the host does not offer it, it can be provided for the run, with the operator's
// permission.
//
// Thread safety: one thread, before the machine starts.

#ifndef UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_
#define UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_

#include <cstdint>

#include "vmm/config/churn_limits.h"
#include "vmm/host/host_changes.h"

namespace underfoot {

// `limits`: those of the machine, to which those of the host are added. Checks what the kinds in
// `wanted` need. `changes`: nullptr if the run may not change the host. If
// a need can be neither found nor provided, its kinds become unavailable, with the reason.
ChurnLimits ProvideForChurn(ChurnLimits limits, uint64_t memory_bytes, const ChurnRates& wanted,
                            HostChanges* changes);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_HOST_NEEDS_H_
