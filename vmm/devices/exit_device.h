// The port where each vCPU leaves its verdict, just before it halts for good.
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
#include "vmm/exits.h"

namespace underfoot {

class ExitDevice {
 public:
  explicit ExitDevice(unsigned vcpus);

  static bool Claims(uint16_t port) { return port == abi::kExitPort; }
  // Continues: the vCPU's own hlt ends it. A second verdict of a vCPU does not change the first.
  ExitOutcome Access(unsigned vcpu, const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);

  std::optional<abi::Verdict> verdict(unsigned vcpu) const ABSL_LOCKS_EXCLUDED(mutex_);

  // All vCPUs have left a verdict; false when `timeout` came first.
  bool WaitForAll(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);

  // The first that is not good, or kGood; nullopt while a vCPU has none.
  std::optional<abi::Verdict> overall() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool AllLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::vector<std::optional<abi::Verdict>> verdicts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_EXIT_DEVICE_H_
