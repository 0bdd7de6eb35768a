// The serial port as the guest's polling writer sees it: every byte is taken at once, and handed on
// in whole lines. Each vCPU has a line of its own, so lines of several vCPUs never mix.
//
// Thread safety: any vCPU thread. The sink is called with one line at a time, never twice at once.

#ifndef UNDERFOOT_VMM_DEVICES_SERIAL_H_
#define UNDERFOOT_VMM_DEVICES_SERIAL_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/exits.h"

namespace underfoot {

class SerialPort {
 public:
  using Sink = std::function<void(unsigned vcpu, std::string_view line)>;

  SerialPort(unsigned vcpus, Sink sink);

  static bool Claims(uint16_t port);
  ExitOutcome Access(unsigned vcpu, const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);

  // Hands on what has no line end yet: at the end of the run.
  void Flush() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A guest that never ends its line must not make us grow.
  static constexpr size_t kMaxLine = 4096;

  void TakeLocked(unsigned vcpu, char byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EmitLocked(unsigned vcpu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Sink sink_;
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_SERIAL_H_
