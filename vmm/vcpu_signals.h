// The two signals that concern a thread inside KVM_RUN: the kick that fetches it out, and the
// SIGBUS by which the kernel tells of poisoned guest memory. Everything else is left to the
// process: vCPU threads block other asynchronous signals, and foreign SIGBUS goes to whoever had
// it.
//
// Thread safety: functions over process-wide state set up once.

#ifndef UNDERFOOT_VMM_VCPU_SIGNALS_H_
#define UNDERFOOT_VMM_VCPU_SIGNALS_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"

namespace underfoot {

// The process's kick signal: a real-time signal that nobody used when this was first called.
// Installs both handlers on that first call.
absl::StatusOr<int> VcpuKickSignal();

// For the calling thread, which becomes a vCPU thread.
void SetVcpuThreadSignalMask(int kick_signal);

// While one lives, a BUS_MCEERR SIGBUS of this thread is recorded here instead of killing us.
class PoisonWatch {
 public:
  PoisonWatch();
  PoisonWatch(const PoisonWatch&) = delete;
  PoisonWatch& operator=(const PoisonWatch&) = delete;
  ~PoisonWatch();

  // The hva of the last such signal since the previous call.
  std::optional<Hva> Take();
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_VCPU_SIGNALS_H_
