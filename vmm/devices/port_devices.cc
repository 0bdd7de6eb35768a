#include "vmm/devices/port_devices.h"

#include <algorithm>
#include <cstddef>

namespace underfoot {

ExitOutcome PortDevices::NoDevice(const PortIo& io) {
  if (!io.write) std::fill(io.data.begin(), io.data.end(), std::byte{0xff});
  return ExitOutcome::kContinue;
}

}  // namespace underfoot
