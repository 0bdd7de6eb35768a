// The ports of a Linux guest: a UART, and the power registers of ACPI.
//
// Thread safety: any vCPU thread.

#ifndef UNDERFOOT_VMM_DEVICES_PC_PLATFORM_H_
#define UNDERFOOT_VMM_DEVICES_PC_PLATFORM_H_

#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/devices/port_devices.h"
#include "vmm/devices/power_ports.h"
#include "vmm/devices/uart.h"

namespace underfoot {

// Cuts a stream of bytes into lines.
//
// Thread safety: one thread at a time.
class LineCutter {
 public:
  explicit LineCutter(std::function<void(std::string_view line)> sink) : sink_(std::move(sink)) {}

  void Take(std::string_view bytes);
  // Passes on text that has no line end yet.
  void Flush();

 private:
  // Limits the memory that a guest can use by never ending its line.
  static constexpr size_t kMaxLine = 4096;

  const std::function<void(std::string_view line)> sink_;
  std::string line_;
};

class PcPlatform final : public PortDevices {
 public:
  // `flush` is called by Flush.
  PcPlatform(Uart::Sinks sinks, std::function<void()> flush)
      : uart_(std::move(sinks)), flush_(std::move(flush)) {}

  ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) override;
  void Flush() override { flush_(); }

  Uart& uart() { return uart_; }
  PowerRequest power_request() const { return power_.request(); }

 private:
  Uart uart_;
  PowerPorts power_;
  const std::function<void()> flush_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_PC_PLATFORM_H_
