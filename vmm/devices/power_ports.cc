#include "vmm/devices/power_ports.h"

#include <algorithm>
#include <cstddef>

#include "vmm/boot/pc_layout.h"

namespace underfoot {
namespace {

// ACPI 6.4, table 4.16: the type of sleep in bits 2 to 4, and the bit that starts it.
constexpr uint8_t kSleepEnable = 1 << 5;
constexpr uint8_t kSleepTypeShift = 2;
constexpr uint8_t kSleepTypeMask = 7;

}  // namespace

bool PowerPorts::Claims(uint16_t port) {
  return port == pc::kSleepControlPort || port == pc::kSleepStatusPort || port == pc::kResetPort;
}

void PowerPorts::Ask(PowerRequest request) {
  PowerRequest none = PowerRequest::kNone;
  static_cast<void>(request_.compare_exchange_strong(none, request, kAcqRel, kAcquire));
}

ExitOutcome PowerPorts::Access(const PortIo& io) {
  if (!io.write) {
    std::fill(io.data.begin(), io.data.end(), std::byte{0});  // awake
    return ExitOutcome::kContinue;
  }
  const uint8_t value = io.data.empty() ? 0 : std::to_integer<uint8_t>(io.data.front());
  if (io.port == pc::kResetPort && value == pc::kResetValue) {
    Ask(PowerRequest::kReset);
    return ExitOutcome::kStop;
  }
  if (io.port == pc::kSleepControlPort && (value & kSleepEnable) != 0 &&
      (value >> kSleepTypeShift & kSleepTypeMask) == pc::kSleepTypeOff) {
    Ask(PowerRequest::kOff);
    return ExitOutcome::kStop;
  }
  return ExitOutcome::kContinue;
}

}  // namespace underfoot
