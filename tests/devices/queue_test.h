// The scene of the tests of a virtqueue without a worker.

#ifndef UNDERFOOT_TESTS_DEVICES_QUEUE_TEST_H_
#define UNDERFOOT_TESTS_DEVICES_QUEUE_TEST_H_

#include <memory>
#include <optional>
#include <vector>

#include "tests/devices/fake_driver.h"
#include "tests/memory/memory_test.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot::testing {

class QueueTest : public MemoryTest {
 protected:
  static constexpr uint64_t kAllFeatures =
      virtio::kVersion1 | virtio::kIndirectDescriptors | virtio::kEventIndex;
  static constexpr uint64_t kInOrder = virtio::kVersion1 | virtio::kInOrder;
  // The first page that is no ring.
  static constexpr uint64_t kData = 3;

  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    StartMonitor();
    reader_.emplace(mmu().readers());
    driver_.emplace(side());
    queue_ = std::make_unique<virtio::Virtqueue>(parts(), "queue");
  }
  void TearDown() override {
    queue_.reset();
    reader_.reset();
    MemoryTest::TearDown();
  }

  virtio::Virtqueue::Parts parts() { return {mmu(), *side().memory, side().access}; }
  FakeDriver& driver() { return *driver_; }
  virtio::Virtqueue& queue() { return *queue_; }
  void Start(uint64_t features = virtio::kVersion1) { queue_->Start(driver().layout(), features); }

  virtio::Descriptor Readable(uint64_t page, uint32_t bytes = 8) {
    return {.gpa = side().GpaAt(page).value, .bytes = bytes, .flags = 0, .next = 0};
  }
  virtio::Descriptor Writable(uint64_t page, uint32_t bytes = 8) {
    return {.gpa = side().GpaAt(page).value,
            .bytes = bytes,
            .flags = virtio::Descriptor::kDeviceWrites,
            .next = 0};
  }
  virtio::Descriptor Table(uint64_t page, uint32_t entries) {
    return {.gpa = side().GpaAt(page).value,
            .bytes = static_cast<uint32_t>(entries * sizeof(virtio::Descriptor)),
            .flags = virtio::Descriptor::kIndirect,
            .next = 0};
  }
  void SetTable(uint64_t page, const std::vector<virtio::Descriptor>& entries) {
    std::memcpy(PointerOf(side().PageAt(page)), entries.data(),
                entries.size() * sizeof(virtio::Descriptor));
  }

  virtio::QueueOutcome Pop() { return queue_->Pop(*reader_, chain_); }
  virtio::QueueOutcome Publish(uint16_t head, uint32_t written) {
    return queue_->Publish(*reader_, head, written);
  }

  std::optional<Reader> reader_;
  std::optional<FakeDriver> driver_;
  std::unique_ptr<virtio::Virtqueue> queue_;
  virtio::Chain chain_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_DEVICES_QUEUE_TEST_H_
