// The port by which a guest that spins for another vCPU gives the host CPU away.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_
#define UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_

#include <cstdint>

#include "guest/abi.h"
#include "vmm/exits.h"

namespace underfoot {

class YieldPort {
 public:
  static bool Claims(uint16_t port) { return port == abi::kYieldPort; }
  ExitOutcome Access(const PortIo& io);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_YIELD_PORT_H_
