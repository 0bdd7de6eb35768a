// The scene of the tests of the block device: a disk in memory that the test steers, and requests.

#ifndef UNDERFOOT_TESTS_DEVICES_BLOCK_FIXTURE_H_
#define UNDERFOOT_TESTS_DEVICES_BLOCK_FIXTURE_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "tests/devices/device_test.h"
#include "vmm/devices/virtio/block.h"

namespace underfoot::testing {

// A disk in memory that fails as the test says.
class FakeDisk final : public virtio::Disk {
 public:
  static constexpr uint64_t kSectors = 4096;

  uint64_t sectors() const override { return kSectors; }
  bool read_only() const override { return read_only_; }
  int Read(uint64_t offset, std::span<std::byte> bytes) override {
    NoteCall();
    if (error_ == 0) std::memcpy(bytes.data(), &bytes_[offset], bytes.size());
    return error_;
  }
  ssize_t ReadOnce(uint64_t offset, std::span<const iovec> guest) override {
    ++direct_calls_;
    if (before_bytes_) before_bytes_();
    ssize_t moved = 0;
    for (const iovec& part : guest) {
      std::memcpy(part.iov_base, &bytes_[offset + static_cast<uint64_t>(moved)], part.iov_len);
      moved += static_cast<ssize_t>(part.iov_len);
    }
    if (after_bytes_) after_bytes_();
    return error_ != 0 ? -1 : moved - short_by_;
  }
  int Write(uint64_t offset, std::span<const std::byte> bytes) override {
    NoteCall();
    if (error_ == 0) std::memcpy(&bytes_[offset], bytes.data(), bytes.size());
    return error_;
  }
  int Flush() override {
    ++flushes_;
    return error_;
  }
  int Discard(uint64_t offset, uint64_t bytes) override {
    NoteCall();
    if (error_ == 0) std::memset(&bytes_[offset], 0xdd, bytes);
    return error_;
  }
  int WriteZeroes(uint64_t offset, uint64_t bytes, bool may_unmap) override {
    NoteCall();
    if (error_ == 0) std::memset(&bytes_[offset], may_unmap ? 0x01 : 0, bytes);
    return error_;
  }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(kSectors * kSectorBytes);
  std::atomic<int> error_{0};
  std::atomic<int> flushes_{0};
  std::atomic<int> direct_calls_{0};
  std::atomic<ssize_t> short_by_{0};
  std::atomic<int> calls_{0};  // all but the direct ones and the flushes
  // Called at the beginning of each of calls_. Set before the request.
  std::function<void()> at_call_;
  // Called in the middle of a direct read. Set before the first request.
  std::function<void()> before_bytes_;
  std::function<void()> after_bytes_;
  bool read_only_ = false;

 private:
  void NoteCall() {
    ++calls_;
    if (at_call_) at_call_();
  }
};

class BlockTest : public DeviceTest {
 protected:
  // Pages of the slot behind the rings.
  static constexpr uint64_t kHeader = 10;
  static constexpr uint64_t kStatus = 11;
  static constexpr uint64_t kPayload = 12;
  static constexpr uint64_t kPayloadPages = 200;

  void SetUp() override {
    DeviceTest::SetUp();
    if (side_ == nullptr) return;
    Run();
  }

  virtual std::unique_ptr<virtio::Disk> MakeDisk() {
    auto disk = std::make_unique<FakeDisk>();
    disk_ = disk.get();
    return disk;
  }
  std::unique_ptr<virtio::Backend> MakeBackend() override {
    std::unique_ptr<virtio::Disk> disk = MakeDisk();
    auto block = std::make_unique<virtio::Block>(std::move(disk), 2, "a disk with a long name");
    block_ = block.get();
    return block;
  }

  std::byte* Payload() { return static_cast<std::byte*>(PointerOf(side().PageAt(kPayload))); }
  virtio::Descriptor PayloadIs(uint64_t bytes, bool device_writes, uint64_t offset = 0) {
    return {.gpa = side().GpaAt(kPayload).value + offset,
            .bytes = static_cast<uint32_t>(bytes),
            .flags = device_writes ? virtio::Descriptor::kDeviceWrites : uint16_t{0},
            .next = 0};
  }
  // Returns the status, and the number of bytes that the device says it has written.
  std::pair<int, uint32_t> Ask(uint32_t type, uint64_t sector,
                               const std::vector<virtio::Descriptor>& payload) {
    Offer(type, sector, payload);
    return Answer();
  }
  // Gives the device a request, and returns at once.
  void Offer(uint32_t type, uint64_t sector, const std::vector<virtio::Descriptor>& payload) {
    virtio_blk_outhdr header{};
    header.type = type;
    header.sector = sector;
    std::memcpy(PointerOf(side().PageAt(kHeader)), &header, sizeof(header));
    *StatusByte() = 0xee;
    std::vector<virtio::Descriptor> chain = {Readable(kHeader, sizeof(header))};
    chain.insert(chain.end(), payload.begin(), payload.end());
    chain.push_back(Writable(kStatus, 1));
    driver().SetChain(0, chain);
    driver().Offer(0);
    Notify();
  }
  // Waits for the answer.
  std::pair<int, uint32_t> Answer() {
    std::optional<virtio::UsedElement> used;
    if (!WaitUntil([&] { return (used = driver().Take()).has_value(); })) return {-1, 0};
    EXPECT_EQ(used->head, 0u);
    return {*StatusByte(), used->written};
  }
  uint8_t* StatusByte() { return static_cast<uint8_t*>(PointerOf(side().PageAt(kStatus))); }
  std::pair<int, uint32_t> AskRanges(uint32_t type,
                                     const std::vector<virtio_blk_discard_write_zeroes>& ranges) {
    const size_t bytes = ranges.size() * sizeof(ranges[0]);
    std::memcpy(Payload(), ranges.data(), bytes);
    return Ask(type, 0, {PayloadIs(bytes, false)});
  }
  const virtio::QueueCounters& counters() { return device().workers()[0]->counters(); }

  static constexpr std::pair<int, uint32_t> kDone{VIRTIO_BLK_S_OK, 1};
  static constexpr std::pair<int, uint32_t> kError{VIRTIO_BLK_S_IOERR, 1};
  static constexpr std::pair<int, uint32_t> kUnsupported{VIRTIO_BLK_S_UNSUPP, 1};

  FakeDisk* disk_ = nullptr;
  virtio::Block* block_ = nullptr;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_DEVICES_BLOCK_FIXTURE_H_
