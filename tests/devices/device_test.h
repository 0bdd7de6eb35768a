// The scene of the tests of a whole device: registers, workers, and a backend that the test steers.

#ifndef UNDERFOOT_TESTS_DEVICES_DEVICE_TEST_H_
#define UNDERFOOT_TESTS_DEVICES_DEVICE_TEST_H_

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/devices/queue_test.h"
#include "tests/support/wait_until.h"
#include "vmm/devices/virtio/mmio_device.h"

namespace underfoot::testing {

// Answers each request with the bytes that it has read, each one incremented.
class EchoBackend final : public virtio::Backend {
 public:
  static constexpr uint32_t kId = 42;
  static constexpr uint64_t kFeature = uint64_t{1} << 5;

  explicit EchoBackend(uint16_t queues) : queues_(queues) {}

  std::string name() const override { return "echo"; }
  uint32_t device_id() const override { return kId; }
  uint64_t features() const override { return kFeature; }
  uint16_t queues() const override { return queues_; }
  std::span<const std::byte> config() const override { return std::as_bytes(std::span(config_)); }

  virtio::Served Serve(virtio::Request& request) override {
    ++serving_;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&open_));
    }
    if (shortages_ != 0) {
      --shortages_;
      throw std::bad_alloc();
    }
    if (request.writable_bytes() < request.readable_bytes()) return {.answered = false};
    std::vector<std::byte> bytes(request.readable_bytes());
    if (!request.Read(0, bytes)) return {.answered = false};
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(std::to_integer<int>(byte) + 1);
    if (!request.Write(0, bytes)) return {.answered = false};
    return {.written = static_cast<uint32_t>(bytes.size())};
  }

  // While the gate is closed, each request stays in Serve.
  void SetGate(bool open) {
    absl::MutexLock lock(&mutex_);
    open_ = open;
  }
  uint64_t serving() const { return serving_; }
  // The next `times` calls of Serve find no memory.
  void RunOutOfMemory(uint64_t times) { shortages_ = times; }

 private:
  const uint16_t queues_;
  const std::array<uint32_t, 3> config_ = {0x03020100, 0x07060504, 0x0b0a0908};
  std::atomic<uint64_t> serving_{0};
  std::atomic<uint64_t> shortages_{0};
  absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
};

class DeviceTest : public QueueTest {
 protected:
  static constexpr uint16_t kQueues = 2;
  static constexpr uint32_t kNegotiated =
      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;

  void SetUp() override {
    QueueTest::SetUp();
    if (side_ == nullptr) return;
    device_ = std::make_unique<virtio::MmioDevice>(parts(), MakeBackend());
    const absl::Status started = device_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }
  void TearDown() override {
    if (echo_ != nullptr) echo_->SetGate(true);
    device_.reset();
    QueueTest::TearDown();
  }

  virtual std::unique_ptr<virtio::Backend> MakeBackend() {
    auto backend = std::make_unique<EchoBackend>(kQueues);
    echo_ = backend.get();
    return backend;
  }

  virtio::MmioDevice& device() { return *device_; }
  // Stops the device until `queue` alone is left; the others may take longer than one patience.
  [[nodiscard]] bool StopsAllBut(const std::string& queue) {
    return WaitUntil(
        [&] { return device().Stop(absl::Milliseconds(1)) == std::vector<std::string>{queue}; });
  }
  EchoBackend& echo() { return *echo_; }

  uint32_t Register(uint64_t offset) {
    uint32_t value = 0;
    device_->Read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void SetRegister(uint64_t offset, uint32_t value) {
    device_->Write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void SetFeatures(uint64_t features) {
    for (const uint32_t half : {0u, 1u}) {
      SetRegister(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
      SetRegister(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> (32 * half)));
    }
  }
  void Negotiate(uint64_t features = virtio::kVersion1) {
    SetRegister(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    SetFeatures(features);
    SetRegister(VIRTIO_MMIO_STATUS, kNegotiated);
    ASSERT_EQ(Register(VIRTIO_MMIO_STATUS), kNegotiated);
  }
  void Place(uint32_t queue, const virtio::RingLayout& layout) {
    SetRegister(VIRTIO_MMIO_QUEUE_SEL, queue);
    SetRegister(VIRTIO_MMIO_QUEUE_NUM, layout.size);
    const auto set = [&](uint64_t low, Gpa gpa) {
      SetRegister(low, static_cast<uint32_t>(gpa.value));
      SetRegister(low + 4, static_cast<uint32_t>(gpa.value >> 32));
    };
    set(VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptors);
    set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, layout.available);
    set(VIRTIO_MMIO_QUEUE_USED_LOW, layout.used);
    SetRegister(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  void GoOn() { SetRegister(VIRTIO_MMIO_STATUS, kNegotiated | VIRTIO_CONFIG_S_DRIVER_OK); }
  // A running device with driver() on queue 0.
  void Run(uint64_t features = kAllFeatures) {
    Negotiate(features);
    Place(0, driver().layout());
    GoOn();
  }
  void Notify(uint32_t queue = 0) { SetRegister(VIRTIO_MMIO_QUEUE_NOTIFY, queue); }
  bool NeedsReset() { return (Register(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }
  // Resets the device and waits for it, as a driver must.
  void Reset() {
    SetRegister(VIRTIO_MMIO_STATUS, 0);
    ASSERT_TRUE(WaitUntil([&] { return Register(VIRTIO_MMIO_STATUS) == 0; }));
  }
  // One request from page to page; true: it came back right.
  bool RequestWorks() {
    auto* const from = static_cast<uint8_t*>(PointerOf(side().PageAt(kData + 20)));
    auto* const to = static_cast<uint8_t*>(PointerOf(side().PageAt(kData + 21)));
    *from = static_cast<uint8_t>(*from + 7);
    *to = 0;
    driver().SetChain(0, {Readable(kData + 20, 1), Writable(kData + 21, 1)});
    driver().Offer(0);
    Notify();
    std::optional<virtio::UsedElement> used;
    if (!WaitUntil([&] { return (used = driver().Take()).has_value(); })) return false;
    return used->head == 0 && used->written == 1 && *to == static_cast<uint8_t>(*from + 1);
  }

  std::unique_ptr<virtio::MmioDevice> device_;
  EchoBackend* echo_ = nullptr;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_DEVICES_DEVICE_TEST_H_
