// The virtio console (virtio 1.2, section 5.3): one port, the terminal of a guest. Linux calls it hvc0.
//
//   the driver's buffers on queue 1 ──► Output
//   Receive ──► up to kMostWaiting bytes ──► the driver's buffers on queue 0
//   SetSize ──► columns and rows, a new generation, an interrupt
//
// A buffer of queue 0 waits until there is input. The worker of that queue sleeps meanwhile: Serve says
// Served::later, and Receive wakes it.
//
// Thread safety: any thread. Output is called by the worker of queue 1, which holds nothing.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_CONSOLE_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_CONSOLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/devices/virtio/backend.h"

namespace underfoot::virtio {

class Console final : public Backend {
 public:
  static constexpr uint16_t kReceive = 0;
  static constexpr uint16_t kTransmit = 1;
  // The input that waits for the driver. More is not taken.
  static constexpr size_t kMostWaiting = 4096;
  // Output is passed on in pieces of this size.
  static constexpr size_t kPieceBytes = 4096;

  // May be slow. The end of the machine waits for one call.
  using Output = std::function<void(std::string_view bytes)>;

  explicit Console(Output output) : output_(std::move(output)) {}

  // Input for the guest. Returns how many bytes of it were taken: the first ones.
  size_t Receive(std::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // 0 x 0, as at the beginning: not known.
  void SetSize(uint16_t columns, uint16_t rows);

  std::string name() const override { return "console"; }
  uint32_t device_id() const override;
  uint64_t features() const override;
  uint16_t queues() const override { return 2; }
  std::span<const std::byte> config() const override { return {}; }
  void ReadConfig(uint64_t offset, std::span<std::byte> data) const override;
  uint32_t config_generation() const override;
  // Linux reads the size after a change, and not when it begins.
  bool announces_config() const override { return config_generation() != 0; }
  Served Serve(Request& request) override;
  // Input that was given is gone, and output that was taken has been shown.
  bool may_serve_again() const override { return false; }

 private:
  Served GiveInput(Request& request) ABSL_LOCKS_EXCLUDED(mutex_);
  Served TakeOutput(Request& request);

  const Output output_;
  // The generation in the upper half; below it columns and rows, 16 bits each. In one word, so that a
  // driver which reads the same generation before and after the fields has read fields of one time.
  std::atomic<uint64_t> size_{0};

  // Guards: the input. Order: innermost. Held across: nothing that waits.
  absl::Mutex mutex_;
  std::string waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_CONSOLE_H_
