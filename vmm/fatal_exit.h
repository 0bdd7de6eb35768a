// The report on an exit that no vCPU comes back from.

#ifndef UNDERFOOT_VMM_FATAL_EXIT_H_
#define UNDERFOOT_VMM_FATAL_EXIT_H_

#include "absl/status/status.h"
#include "vmm/vcpu.h"

namespace underfoot {

// Reason, rip, suberror and, where the emulator gave up, the instruction's bytes.
absl::Status FatalExit(const Vcpu& vcpu);

// The same for a KVM_RUN that failed with `error`.
absl::Status FatalRunError(const Vcpu& vcpu, int error);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_FATAL_EXIT_H_
