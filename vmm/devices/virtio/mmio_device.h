// A virtio device behind the registers of virtio-mmio (virtio 1.2, section 4.2; no legacy driver).
//
// Its life, as the driver sees it:
//
//   Status 0 --ACKNOWLEDGE, DRIVER--> features offered and accepted --FEATURES_OK--> queues placed
//      ^                                                                                  |
//      +---- reset: the workers let go first ---- DEVICE_NEEDS_RESET <---- running <--DRIVER_OK
//
// A reset, and a queue that is taken back, are asynchronous: Status and QueueReady keep their old
// values until the workers hold no ring any more. The standard has the driver wait for that, and so
// a vCPU never waits for the system call of a worker.
//
// A driver that breaks the rules makes the device set DEVICE_NEEDS_RESET and stop. Accesses that
// the standard forbids (a wrong width, a register that does not exist) read as zeroes and write
// nothing.
//
// Thread safety: Start and Stop by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_DEVICE_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_DEVICE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/queue_worker.h"

namespace underfoot::virtio {

class MmioDevice {
 public:
  // The bytes of a device in the window.
  static constexpr uint64_t kBytes = 4096;
  static constexpr uint32_t kMagic = 0x74726976;  // "virt"
  static constexpr uint32_t kVersion = 2;         // not the legacy interface

  MmioDevice(const Virtqueue::Parts& parts, std::unique_ptr<Backend> backend);
  ~MmioDevice() { static_cast<void>(Stop()); }
  MmioDevice(const MmioDevice&) = delete;
  MmioDevice& operator=(const MmioDevice&) = delete;

  [[nodiscard]] absl::Status Start();
  void RequestStop();
  // Returns the names of the queues whose worker has not ended within `patience`. If there is one,
  // the device must not be destroyed before a later Stop returns none.
  [[nodiscard]] std::vector<std::string> Stop(absl::Duration patience = absl::InfiniteDuration());

  // Accesses of the driver. `offset` is below kBytes.
  void Read(uint64_t offset, std::span<std::byte> data) ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(uint64_t offset, std::span<const std::byte> data) ABSL_LOCKS_EXCLUDED(mutex_);

  // Each interrupt increments it, after InterruptStatus was set: for an irqfd. Without one, the
  // driver polls the used ring or InterruptStatus.
  void SetInterruptFd(UniqueFd fd) { interrupt_fd_ = std::move(fd); }

  const Backend& backend() const { return *backend_; }
  const std::vector<std::unique_ptr<QueueWorker>>& workers() const { return workers_; }
  uint32_t status() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t resets() const { return resets_.Get(); }
  uint64_t needed_resets() const { return needed_resets_.Get(); }

 private:
  struct Queue {
    RingLayout layout;
    bool ready = false;
  };

  uint32_t ReadRegisterLocked(uint64_t offset) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteRegisterLocked(uint64_t offset, uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WriteQueueRegisterLocked(uint64_t offset, uint32_t value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetStatusLocked(uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetReadyLocked(uint32_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool FeaturesAreAcceptableLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QuiesceLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends a reset for which the workers are quiet.
  void FinishResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NeedResetLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NeedReset() ABSL_LOCKS_EXCLUDED(mutex_);
  void ConfigChanged() ABSL_LOCKS_EXCLUDED(mutex_);
  void Interrupt(uint32_t reason);
  Queue* SelectedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t offered() const { return backend_->features() | kQueueFeatures; }

  static constexpr uint64_t kQueueFeatures =
      kVersion1 | kIndirectDescriptors | kEventIndex | kInOrder;

  const Virtqueue::Parts parts_;
  const std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<QueueWorker>> workers_;  // one for each queue
  UniqueFd interrupt_fd_;
  // Release when a bit is set, acquire when the driver reads it: the used ring that the interrupt
  // announces comes first.
  std::atomic<uint32_t> interrupt_status_{0};
  Counter resets_;
  Counter needed_resets_;

  // Guards: the registers. Order: before QueueWorker::mutex_. Held across: no wait and no system
  // call but a write to an eventfd.
  mutable absl::Mutex mutex_;
  uint32_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  bool resetting_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t device_features_half_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t driver_features_half_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t driver_features_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t selected_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Queue> queues_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_DEVICE_H_
