// The entropy device.

#include "vmm/devices/virtio/rng.h"

#include <gtest/gtest.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <vector>

#include "tests/devices/device_test.h"

namespace underfoot::testing {
namespace {

class RngTest : public DeviceTest {
 protected:
  std::unique_ptr<virtio::Backend> MakeBackend() override {
    return std::make_unique<virtio::Rng>();
  }
  std::vector<uint64_t> Ask(uint32_t bytes) {
    auto* const words = static_cast<uint64_t*>(PointerOf(side().PageAt(kData)));
    std::fill(words, words + bytes / 8 + 1, 0);
    driver().SetChain(0, {Writable(kData, bytes / 2), Writable(kData, bytes - bytes / 2)});
    // The second part begins where the first one ends.
    virtio::Descriptor second = Writable(kData, bytes - bytes / 2);
    second.gpa += bytes / 2;
    driver().SetDescriptor(1, second);
    driver().Offer(0);
    Notify();
    std::optional<virtio::UsedElement> used;
    EXPECT_TRUE(WaitUntil([&] { return (used = driver().Take()).has_value(); }));
    written_ = used.has_value() ? used->written : 0;
    return {words, words + bytes / 8 + 1};
  }

  uint32_t written_ = 0;
};

TEST_P(RngTest, ABufferIsFilledToItsEndAndNotBeyond) {
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), uint32_t{VIRTIO_ID_RNG});
  Run();
  std::vector<uint64_t> words = Ask(4000);
  EXPECT_EQ(written_, 4000u);
  EXPECT_EQ(words.back(), 0u);
  words.pop_back();
  // Each of these fails once in 2^50 runs or so.
  EXPECT_EQ(std::count(words.begin(), words.end(), 0u), 0);
  std::vector<uint64_t> again = Ask(4000);
  words.insert(words.end(), again.begin(), again.end() - 1);
  std::sort(words.begin(), words.end());
  EXPECT_EQ(std::unique(words.begin(), words.end()), words.end());
}

TEST_P(RngTest, ALongBufferIsFilledInPart) {
  Run();
  Ask(static_cast<uint32_t>(virtio::Rng::kMaxBytes) + 4096);
  EXPECT_EQ(written_, virtio::Rng::kMaxBytes);
}

TEST_P(RngTest, ABufferToReadNeedsAReset) {
  Run();
  driver().SetChain(0, {Readable(kData), Writable(kData + 1)});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
}

UNDERFOOT_FOR_BOTH_BACKINGS(RngTest);

}  // namespace
}  // namespace underfoot::testing
