// The two signals that concern a thread inside KVM_RUN: the kick, which makes it return, and the
// SIGBUS by which the kernel reports poisoned guest memory. All other signals are left to the
// process: vCPU threads block other asynchronous signals, and a SIGBUS with another cause is passed
// to the handler that was installed before.
//
// Thread safety: any thread. The functions act on process-wide state that is set up once.

#ifndef UNDERFOOT_VMM_KVM_VCPU_SIGNALS_H_
#define UNDERFOOT_VMM_KVM_VCPU_SIGNALS_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"

namespace underfoot {

// The kick signal of this process: a real-time signal that had no handler at the first call. That
// first call installs both handlers.
absl::StatusOr<int> VcpuKickSignal();

// Sets the signal mask of the calling thread, which becomes a vCPU thread.
void SetVcpuThreadSignalMask(int kick_signal);

// While an object exists, a BUS_MCEERR SIGBUS of this thread is recorded here and does not end the
// process.
class PoisonWatch {
 public:
  PoisonWatch();
  PoisonWatch(const PoisonWatch&) = delete;
  PoisonWatch& operator=(const PoisonWatch&) = delete;
  ~PoisonWatch();

  // Returns the hva of the last such signal since the previous call.
  std::optional<Hva> Take();
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_VCPU_SIGNALS_H_
