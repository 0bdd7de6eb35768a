#include "vmm/devices/platform.h"

namespace underfoot {

ExitOutcome Platform::OnPortIo(unsigned vcpu, const PortIo& io) {
  if (SerialPort::Claims(io.port)) return serial_.Access(vcpu, io);
  if (TextPort::Claims(io.port)) return text_.Access(vcpu, io);
  if (ExitDevice::Claims(io.port)) return exit_.Access(vcpu, io);
  if (YieldPort::Claims(io.port)) return yield_.Access(io);
  if (event_pages_ != nullptr && EventPages::Claims(io.port)) return event_pages_->Access(vcpu, io);
  return NoDevice(io);
}

}  // namespace underfoot
