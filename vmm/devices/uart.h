// A 16550 UART with its FIFOs and its interrupt, as an operating system drives it. Its output is
// taken at once, so the transmitter is always empty; its input is what Receive was given.
//
// The interrupt line is high as long as an enabled cause is pending: received bytes, or a transmitter
// that became empty and was not acknowledged since.
//
// Thread safety: any thread. The sinks are called with the lock held, one at a time, in the order of
// the events: `line` must not wait for a vCPU, and neither may call back.

#ifndef UNDERFOOT_VMM_DEVICES_UART_H_
#define UNDERFOOT_VMM_DEVICES_UART_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/kvm/exits.h"

namespace underfoot {

class Uart {
 public:
  // The bytes that wait for the guest. More are not taken.
  static constexpr size_t kMostWaiting = 4096;

  struct Sinks {
    std::function<void(std::string_view bytes)> output;
    std::function<void(bool high)> line;
  };

  explicit Uart(Sinks sinks) : sinks_(std::move(sinks)) {}

  static bool Claims(uint16_t port);
  ExitOutcome Access(const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);

  // Bytes that arrive on the line. Returns how many of them were taken: the first ones.
  size_t Receive(std::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  uint8_t ReadLocked(uint8_t reg) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteLocked(uint8_t reg, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t TakeByteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ReadCauseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t ModemStatusLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendLocked(uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateLineLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Sinks sinks_;
  // Guards: the registers. Order: before the locks of the sinks. Held across: the sinks, one of which
  // is a call of KVM, and the other may wait half a second for a reader of the output that has stopped.
  absl::Mutex mutex_;
  std::deque<uint8_t> received_ ABSL_GUARDED_BY(mutex_);
  uint8_t enabled_ ABSL_GUARDED_BY(mutex_) = 0;  // causes of interrupts
  bool transmitter_emptied_ ABSL_GUARDED_BY(mutex_) = false;
  bool fifos_ ABSL_GUARDED_BY(mutex_) = false;
  bool line_is_high_ ABSL_GUARDED_BY(mutex_) = false;
  uint8_t line_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t modem_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t scratch_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t divisor_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_UART_H_
