// The sleep control, sleep status and reset registers of a hardware-reduced ACPI platform.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_POWER_PORTS_H_
#define UNDERFOOT_VMM_DEVICES_POWER_PORTS_H_

#include <atomic>
#include <cstdint>

#include "mmu/base/ordering.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

// What the guest has asked for. The first request counts.
enum class PowerRequest : uint8_t { kNone, kOff, kReset };

class PowerPorts {
 public:
  static bool Claims(uint16_t port);
  // kStop if it is a request.
  ExitOutcome Access(const PortIo& io);

  PowerRequest request() const { return request_.load(kAcquire); }

 private:
  void Ask(PowerRequest request);

  std::atomic<PowerRequest> request_{PowerRequest::kNone};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_POWER_PORTS_H_
