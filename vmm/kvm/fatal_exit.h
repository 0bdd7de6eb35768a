// Describes an exit after which a vCPU cannot continue.

#ifndef UNDERFOOT_VMM_KVM_FATAL_EXIT_H_
#define UNDERFOOT_VMM_KVM_FATAL_EXIT_H_

#include "absl/status/status.h"
#include "vmm/kvm/vcpu.h"

namespace underfoot {

// Describes the reason, rip, the suberror and, if the emulator gave up, the bytes of the
// instruction.
absl::Status FatalExit(const Vcpu& vcpu);

// The same for a KVM_RUN that failed with `error`.
absl::Status FatalRunError(const Vcpu& vcpu, int error);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_FATAL_EXIT_H_
