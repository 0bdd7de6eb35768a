// The serial port, as the guest's polling writer uses it. Every byte is accepted at once and passed
// on in whole lines. Each vCPU has its own line buffer, so lines of several vCPUs never mix.
//
// Thread safety: any vCPU thread. The sink is called with one line at a time, and calls never
// overlap.

#ifndef UNDERFOOT_VMM_DEVICES_SERIAL_H_
#define UNDERFOOT_VMM_DEVICES_SERIAL_H_

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class SerialPort {
 public:
  using Sink = std::function<void(unsigned vcpu, std::string_view line)>;

  SerialPort(unsigned vcpus, Sink sink);

  static bool Claims(uint16_t port);
  ExitOutcome Access(unsigned vcpu, const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);
  ExitOutcome Print(unsigned vcpu, std::span<const std::byte> text) ABSL_LOCKS_EXCLUDED(mutex_);

  // Passes on text that has no line end yet. Called at the end of the run.
  void Flush() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Limits the memory that a guest can use by never ending its line.
  static constexpr size_t kMaxLine = 4096;

  void TakeLocked(unsigned vcpu, char byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EmitLocked(unsigned vcpu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Sink sink_;
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_SERIAL_H_
