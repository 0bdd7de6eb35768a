// The devices of a machine that are reached by port I/O.
//
// Thread safety: any vCPU thread.

#ifndef UNDERFOOT_VMM_DEVICES_PORT_DEVICES_H_
#define UNDERFOOT_VMM_DEVICES_PORT_DEVICES_H_

#include "vmm/kvm/exits.h"

namespace underfoot {

class PortDevices {
 public:
  virtual ~PortDevices() = default;

  // A port without a device reads as ones and ignores writes, as on a PC. kStop: the guest has
  // switched the machine off or reset it; no vCPU runs on.
  virtual ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) = 0;
  // Passes on output that is still held back. Called at the end of the run.
  virtual void Flush() = 0;

 protected:
  static ExitOutcome NoDevice(const PortIo& io);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_PORT_DEVICES_H_
