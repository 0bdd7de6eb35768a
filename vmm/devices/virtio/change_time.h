// When something of what a guest is asked for, or of what it has done about it, has changed last.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_CHANGE_TIME_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_CHANGE_TIME_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/monotonic.h"

namespace underfoot::virtio {

class ChangeTime {
 public:
  void Note() { us_.store(absl::ToInt64Microseconds(MonotonicNow()), kRelaxed); }
  // The time since the last change, in microseconds; 0: the guest has `reached` what it is asked for.
  uint64_t IdleUs(bool reached) const {
    const int64_t idle_us = absl::ToInt64Microseconds(MonotonicNow()) - us_.load(kRelaxed);
    return reached ? 0 : static_cast<uint64_t>(std::max(idle_us, int64_t{0}));
  }

 private:
  std::atomic<int64_t> us_{0};  // relaxed: for the statistics
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_CHANGE_TIME_H_
