// The port to which each vCPU writes its verdict, just before it halts for good.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_EXIT_DEVICE_H_
#define UNDERFOOT_VMM_DEVICES_EXIT_DEVICE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "guest/abi.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class ExitDevice {
 public:
  explicit ExitDevice(unsigned vcpus);

  static bool Claims(uint16_t port) { return port == abi::kExitPort; }
  // Returns kContinue: the vCPU ends by its own hlt. A second verdict of a vCPU does not replace
  // the first.
  ExitOutcome Access(unsigned vcpu, const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);

  std::optional<abi::Verdict> verdict(unsigned vcpu) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits until every vCPU has written a verdict. Returns false if `timeout` passes first.
  bool WaitForAll(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);

  // The first verdict that is not good, or kGood. nullopt while any vCPU has none.
  std::optional<abi::Verdict> overall() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool AllLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::vector<std::optional<abi::Verdict>> verdicts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_EXIT_DEVICE_H_
