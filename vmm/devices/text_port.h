// The port by which a vCPU prints the text in the system area that is its own (abi::TextGpa): one exit
// for a line, as with the console hypercalls of Xen and of RISC-V's SBI.
//
// Thread safety: any vCPU thread.

#ifndef UNDERFOOT_VMM_DEVICES_TEXT_PORT_H_
#define UNDERFOOT_VMM_DEVICES_TEXT_PORT_H_

#include <cstdint>

#include "guest/abi.h"
#include "mmu/base/types.h"
#include "vmm/devices/serial.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class TextPort {
 public:
  // `system_area` is the hva of gpa 0, where abi::kSystemAreaBytes stay mapped. The text comes out of
  // `serial`.
  TextPort(Hva system_area, SerialPort& serial) : system_area_(system_area), serial_(serial) {}

  static bool Claims(uint16_t port) { return port == abi::kTextPort; }
  ExitOutcome Access(unsigned vcpu, const PortIo& io);

 private:
  const Hva system_area_;
  SerialPort& serial_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_TEXT_PORT_H_
