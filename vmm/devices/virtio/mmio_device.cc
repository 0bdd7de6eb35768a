#include "vmm/devices/virtio/mmio_device.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/base/ordering.h"
#include "vmm/base/monotonic.h"

namespace underfoot::virtio {
namespace {

constexpr uint32_t kVendor = 0x46524455;  // "UDRF"
constexpr uint32_t kDriverBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                 VIRTIO_CONFIG_S_FAILED;

uint32_t Half(uint64_t word, uint32_t half) {
  return half > 1 ? 0 : static_cast<uint32_t>(word >> (32 * half));
}

void SetHalf(uint64_t& word, uint32_t half, uint32_t value) {
  if (half > 1) return;
  word = (word & ~(uint64_t{0xffffffff} << (32 * half))) | uint64_t{value} << (32 * half);
}

}  // namespace

MmioDevice::MmioDevice(const Virtqueue::Parts& parts, std::unique_ptr<Backend> backend)
    : parts_(parts), backend_(std::move(backend)), queues_(backend_->queues()) {
  backend_->SetConfigSink([this] { ConfigChanged(); });
  backend_->SetWakeSink([this](uint16_t queue) { workers_[queue]->Wake(); });
  for (uint16_t i = 0; i < backend_->queues(); ++i) {
    workers_.push_back(std::make_unique<QueueWorker>(
        parts, *backend_, i, absl::StrCat(backend_->name(), "-", i),
        QueueWorker::Sinks{.interrupt = [this] { Interrupt(VIRTIO_MMIO_INT_VRING); },
                           .broken = [this] { NeedReset(); }}));
  }
}

absl::Status MmioDevice::Start() {
  for (const auto& worker : workers_) {
    if (absl::Status started = worker->Start(); !started.ok()) return started;
  }
  return absl::OkStatus();
}

void MmioDevice::RequestStop() {
  for (const auto& worker : workers_) worker->RequestStop();
}

std::vector<std::string> MmioDevice::Stop(absl::Duration patience) {
  RequestStop();
  const absl::Duration end = MonotonicNow() + patience;
  std::vector<std::string> running;
  for (const auto& worker : workers_) {
    const absl::Duration left = std::max(end - MonotonicNow(), absl::ZeroDuration());
    if (!worker->Stop(left)) running.push_back(worker->name());
  }
  return running;
}

uint32_t MmioDevice::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void MmioDevice::Interrupt(uint32_t reason) {
  interrupt_status_.fetch_or(reason, kRelease);
  if (interrupt_fd_.valid()) static_cast<void>(eventfd_write(interrupt_fd_.get(), 1));
}

MmioDevice::Queue* MmioDevice::SelectedLocked() {
  return selected_ < queues_.size() ? &queues_[selected_] : nullptr;
}

void MmioDevice::Read(uint64_t offset, std::span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset >= VIRTIO_MMIO_CONFIG) {
    backend_->ReadConfig(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  absl::MutexLock lock(&mutex_);
  FinishResetLocked();
  const uint32_t value = ReadRegisterLocked(offset);
  std::memcpy(data.data(), &value, sizeof(value));
}

uint32_t MmioDevice::ReadRegisterLocked(uint64_t offset) {
  const Queue* const queue = SelectedLocked();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return backend_->device_id();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return Half(offered(), device_features_half_);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue == nullptr ? 0 : Virtqueue::kMaxSize;
    case VIRTIO_MMIO_QUEUE_READY:
      // 0 is the promise that the device accesses the ring no more.
      return queue != nullptr && (queue->ready || !workers_[selected_]->quiet()) ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return interrupt_status_.load(kAcquire);
    case VIRTIO_MMIO_STATUS:
      return status_;
    // There is no shared memory: its length reads as -1.
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return ~uint32_t{0};
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return backend_->config_generation();
    default:
      return 0;
  }
}

void MmioDevice::Write(uint64_t offset, std::span<const std::byte> data) {
  if (offset >= VIRTIO_MMIO_CONFIG) {
    backend_->WriteConfig(offset - VIRTIO_MMIO_CONFIG, data);
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof(value));
  absl::MutexLock lock(&mutex_);
  FinishResetLocked();
  // Until the driver has read a Status of 0, it may write nothing.
  if (!resetting_) WriteRegisterLocked(offset, value);
}

void MmioDevice::WriteRegisterLocked(uint64_t offset, uint32_t value) {
  if (WriteQueueRegisterLocked(offset, value)) return;
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_half_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_half_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
        SetHalf(driver_features_, driver_features_half_, value);
      }
      return;
    case VIRTIO_MMIO_QUEUE_SEL:
      selected_ = value;
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      // The ordinary way is the ioeventfd, past this function.
      if (value < workers_.size()) workers_[value]->Kick();
      return;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      interrupt_status_.fetch_and(~value, kRelaxed);
      return;
    case VIRTIO_MMIO_STATUS:
      SetStatusLocked(value);
      return;
    default:
      return;
  }
}

// A queue that is ready keeps its place.
bool MmioDevice::WriteQueueRegisterLocked(uint64_t offset, uint32_t value) {
  Queue* const queue = SelectedLocked();
  if (offset == VIRTIO_MMIO_QUEUE_READY) {
    if (queue != nullptr) SetReadyLocked(value);
    return true;
  }
  Queue unused;
  Queue& target = queue == nullptr || queue->ready ? unused : *queue;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      // A number that has no room is no size of a queue either: SetReadyLocked refuses 0.
      target.layout.size = value <= Virtqueue::kMaxSize ? static_cast<uint16_t>(value) : 0;
      return true;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      SetHalf(target.layout.descriptors.value, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH ? 1 : 0,
              value);
      return true;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      SetHalf(target.layout.available.value, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH ? 1 : 0, value);
      return true;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      SetHalf(target.layout.used.value, offset == VIRTIO_MMIO_QUEUE_USED_HIGH ? 1 : 0, value);
      return true;
    default:
      return false;
  }
}

void MmioDevice::SetReadyLocked(uint32_t value) {
  Queue& queue = queues_[selected_];
  if (value == 0) {
    queue.ready = false;
    workers_[selected_]->Quiesce();
    return;
  }
  if (queue.ready) return;
  if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0 || !workers_[selected_]->quiet() ||
      !Virtqueue::LayoutIsValid(parts_.memory, queue.layout)) {
    NeedResetLocked();
    return;
  }
  queue.ready = true;
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status_ & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) {
    workers_[selected_]->Run(queue.layout, driver_features_);
  }
}

bool MmioDevice::FeaturesAreAcceptableLocked() const {
  const uint64_t required = kVersion1 | backend_->required_features();
  return (driver_features_ & ~offered()) == 0 && (driver_features_ & required) == required;
}

void MmioDevice::SetStatusLocked(uint32_t value) {
  if (value == 0) {
    resetting_ = true;
    QuiesceLocked();
    FinishResetLocked();
    return;
  }
  uint32_t added = value & kDriverBits & ~status_;  // no bit is cleared but by a reset
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !FeaturesAreAcceptableLocked()) {
    added &= ~uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
  }
  if (((status_ | added) & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    added &= ~uint32_t{VIRTIO_CONFIG_S_DRIVER_OK};
  }
  status_ |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) == 0 || (status_ & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) {
    return;
  }
  backend_->DriverBegins(driver_features_);
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].ready) workers_[i]->Run(queues_[i].layout, driver_features_);
  }
  if (backend_->announces_config()) Interrupt(VIRTIO_MMIO_INT_CONFIG);
}

void MmioDevice::QuiesceLocked() {
  for (const auto& worker : workers_) worker->Quiesce();
}

void MmioDevice::FinishResetLocked() {
  if (!resetting_) return;
  for (const auto& worker : workers_) {
    if (!worker->quiet()) return;
  }
  resetting_ = false;
  status_ = 0;
  driver_features_ = 0;
  device_features_half_ = driver_features_half_ = 0;
  selected_ = 0;
  queues_.assign(queues_.size(), {});
  interrupt_status_.store(0, kRelaxed);
  resets_.Add();
}

void MmioDevice::NeedResetLocked() {
  if ((status_ & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) return;
  status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
  needed_resets_.Add();
  QuiesceLocked();
  // Section 2.1.2: a running driver learns this by a change of the configuration.
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Interrupt(VIRTIO_MMIO_INT_CONFIG);
}

void MmioDevice::ConfigChanged() {
  absl::MutexLock lock(&mutex_);
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Interrupt(VIRTIO_MMIO_INT_CONFIG);
}

void MmioDevice::NeedReset() {
  absl::MutexLock lock(&mutex_);
  NeedResetLocked();
}

}  // namespace underfoot::virtio
