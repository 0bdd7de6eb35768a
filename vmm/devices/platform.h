// The ports of the test machine: serial port, text port, exit device, yield port, event pages. An
// ExitHandler passes its port accesses to this class.
//
// Thread safety: any vCPU thread.

#ifndef UNDERFOOT_VMM_DEVICES_PLATFORM_H_
#define UNDERFOOT_VMM_DEVICES_PLATFORM_H_

#include "vmm/devices/event_pages.h"
#include "vmm/devices/exit_device.h"
#include "vmm/devices/port_devices.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/text_port.h"
#include "vmm/devices/yield_port.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class Platform final : public PortDevices {
 public:
  // `system_area` is the hva of gpa 0, where abi::kSystemAreaBytes stay mapped.
  Platform(unsigned vcpus, Hva system_area, SerialPort::Sink sink)
      : serial_(vcpus, std::move(sink)), text_(system_area, serial_), exit_(vcpus) {}

  // Before a vCPU runs. Without it there are no ports of event pages.
  void SetEventPages(EventPages* event_pages) { event_pages_ = event_pages; }

  ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) override;
  void Flush() override { serial_.Flush(); }

  SerialPort& serial() { return serial_; }
  ExitDevice& exit_device() { return exit_; }
  const ExitDevice& exit_device() const { return exit_; }

 private:
  SerialPort serial_;
  TextPort text_;
  ExitDevice exit_;
  YieldPort yield_;
  EventPages* event_pages_ = nullptr;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_PLATFORM_H_
