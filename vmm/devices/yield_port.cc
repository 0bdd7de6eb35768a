#include "vmm/devices/yield_port.h"

#include <sched.h>

#include <algorithm>

namespace underfoot {

ExitOutcome YieldPort::Access(const PortIo& io) {
  if (io.write) {
    sched_yield();
  } else {
    std::fill(io.data.begin(), io.data.end(), std::byte{0});
  }
  return ExitOutcome::kContinue;
}

}  // namespace underfoot
