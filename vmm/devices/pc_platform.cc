#include "vmm/devices/pc_platform.h"

namespace underfoot {

void LineCutter::Take(std::string_view bytes) {
  for (const char byte : bytes) {
    if (byte == '\r') continue;
    if (byte != '\n') line_.push_back(byte);
    if (byte == '\n' || line_.size() >= kMaxLine) {
      sink_(line_);
      line_.clear();
    }
  }
}

void LineCutter::Flush() {
  if (line_.empty()) return;
  sink_(line_);
  line_.clear();
}

ExitOutcome PcPlatform::OnPortIo(unsigned, const PortIo& io) {
  if (Uart::Claims(io.port)) return uart_.Access(io);
  if (PowerPorts::Claims(io.port)) return power_.Access(io);
  return NoDevice(io);
}

}  // namespace underfoot
