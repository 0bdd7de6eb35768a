// The port by which a vCPU that spins for another vCPU gives up the host CPU.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_
#define UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_

#include <cstdint>

#include "guest/abi.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class YieldPort {
 public:
  static bool Claims(uint16_t port) { return port == abi::kYieldPort; }
  ExitOutcome Access(const PortIo& io);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_
