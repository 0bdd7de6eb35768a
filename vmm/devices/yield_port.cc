#include "vmm/devices/yield_port.h"

#include <sched.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace underfoot {
namespace {

// About 3 ms of waiting. A vCPU that waits longer waits for a vCPU that does not get a host CPU.
constexpr uint8_t kManyYields = 100;
constexpr absl::Duration kSleep = absl::Microseconds(100);

}  // namespace

// A vCPU that only yields, again and again, still uses most of a CPU: Linux 6.18 ran such a thread
// for 385 of 500 ms, while a kernel thread that the whole process depended on did not run for a
// minute. A vCPU that sleeps gives the CPU up.
ExitOutcome YieldPort::Access(const PortIo& io) {
  if (!io.write) {
    std::fill(io.data.begin(), io.data.end(), std::byte{0});
  } else if (!io.data.empty() && std::to_integer<uint8_t>(io.data.front()) >= kManyYields) {
    absl::SleepFor(kSleep);
  } else {
    sched_yield();
  }
  return ExitOutcome::kContinue;
}

}  // namespace underfoot
