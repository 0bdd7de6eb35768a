// The virtio console: bytes in both directions, and the size of the terminal.

#include "vmm/devices/virtio/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/devices/device_test.h"

namespace underfoot::testing {
namespace {

using ::testing::IsEmpty;
using virtio::Console;
using virtio::Descriptor;

class ConsoleTest : public DeviceTest {
 protected:
  static constexpr uint64_t kOutput = 12;  // the first page of what the guest writes
  static constexpr uint64_t kInput = 20;   // the first page of the buffers for input
  static constexpr uint64_t kSizeFeature = uint64_t{1} << VIRTIO_CONSOLE_F_SIZE;

  void SetUp() override {
    DeviceTest::SetUp();
    if (side_ == nullptr) return;
    RunConsole();
  }
  void TearDown() override {
    SetGate(true);
    DeviceTest::TearDown();
  }
  std::unique_ptr<virtio::Backend> MakeBackend() override {
    auto console = std::make_unique<Console>([this](std::string_view bytes) {
      if (at_output_) at_output_();
      absl::MutexLock lock(&mutex_);
      output_ += bytes;
      mutex_.Await(absl::Condition(&open_));
    });
    console_ = console.get();
    return console;
  }

  void RunConsole() {
    Negotiate(kAllFeatures | kSizeFeature);
    drivers_.clear();
    for (const uint16_t queue : {Console::kReceive, Console::kTransmit}) {
      drivers_.emplace_back(side(), uint16_t{16}, uint64_t{queue} * 3);
      Place(queue, drivers_[queue].layout());
    }
    GoOn();
  }
  FakeDriver& receive() { return drivers_[Console::kReceive]; }
  FakeDriver& transmit() { return drivers_[Console::kTransmit]; }

  void OfferOutput(const std::vector<Descriptor>& chain) {
    transmit().SetChain(0, chain);
    transmit().Offer(0);
    Notify(Console::kTransmit);
  }
  void OfferInput(uint32_t bytes) {
    receive().SetChain(0, {Writable(kInput, bytes)});
    receive().Offer(0);
    Notify(Console::kReceive);
  }
  // What has come into the buffer that was offered.
  std::string TakeInput() {
    std::optional<virtio::UsedElement> used;
    if (!WaitUntil([&] { return (used = receive().Take()).has_value(); })) return "no answer";
    return {static_cast<const char*>(PointerOf(side().PageAt(kInput))), used->written};
  }
  bool OutputAnswered() {
    std::optional<virtio::UsedElement> used;
    return WaitUntil([&] { return (used = transmit().Take()).has_value(); }) && used->written == 0;
  }
  std::string output() {
    absl::MutexLock lock(&mutex_);
    return output_;
  }
  // While it is closed, the sink of the output does not return.
  void SetGate(bool open) {
    absl::MutexLock lock(&mutex_);
    open_ = open;
  }
  uint16_t Config(uint64_t offset) {
    uint16_t value = 0;
    device().Read(VIRTIO_MMIO_CONFIG + offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  Console* console_ = nullptr;
  std::vector<FakeDriver> drivers_;
  std::function<void()> at_output_;  // set before the request
  absl::Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
};

std::string SomeText(size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += static_cast<char>(i * 7 + i / 256);
  return text;
}

TEST_P(ConsoleTest, WhatTheGuestWritesIsPassedOnAsItIs) {
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), uint32_t{VIRTIO_ID_CONSOLE});
  const std::string text = SomeText(3 * kPageSize);
  std::memcpy(PointerOf(side().PageAt(kOutput)), text.data(), text.size());
  OfferOutput({Readable(kOutput, 5), Readable(kOutput, 3 * kPageSize)});
  EXPECT_TRUE(OutputAnswered());
  EXPECT_EQ(output(), text.substr(0, 5) + text);
  EXPECT_EQ(device().workers()[Console::kTransmit]->counters().from_guest_bytes.Get(),
            5 + 3 * kPageSize);
}

// The buffer waits for the input, or the input for the buffer.
TEST_P(ConsoleTest, InputComesIntoTheBuffersThatTheGuestOffers) {
  OfferInput(64);
  EXPECT_EQ(console_->Receive("first"), 5u);
  EXPECT_EQ(TakeInput(), "first");
  EXPECT_EQ(console_->Receive("sec"), 3u);
  EXPECT_EQ(console_->Receive("ond"), 3u);
  OfferInput(64);
  EXPECT_EQ(TakeInput(), "second");
  OfferInput(64);
  // The worker has taken the buffer, has found no input for it, and sleeps or is about to.
  ASSERT_TRUE(WaitUntil(
      [&] { return device().workers()[Console::kReceive]->queue().next_available() == 3; }));
  EXPECT_EQ(console_->Receive("third"), 5u);
  EXPECT_EQ(TakeInput(), "third");
  EXPECT_EQ(device().workers()[Console::kReceive]->counters().to_guest_bytes.Get(), 16u);
}

TEST_P(ConsoleTest, InputThatIsLongerThanABufferFillsSeveral) {
  const std::string text = SomeText(100);
  EXPECT_EQ(console_->Receive(text), 100u);
  OfferInput(48);
  EXPECT_EQ(TakeInput(), text.substr(0, 48));
  OfferInput(48);
  EXPECT_EQ(TakeInput(), text.substr(48, 48));
  OfferInput(48);
  EXPECT_EQ(TakeInput(), text.substr(96));
}

TEST_P(ConsoleTest, InputThatHasNoRoomIsNotTaken) {
  const std::string text = SomeText(Console::kMostWaiting + 100);
  EXPECT_EQ(console_->Receive(text), Console::kMostWaiting);
  EXPECT_EQ(console_->Receive(text), 0u);
  OfferInput(kPageSize);
  EXPECT_EQ(TakeInput(), text.substr(0, Console::kMostWaiting));
  EXPECT_EQ(console_->Receive("x"), 1u);
}

TEST_P(ConsoleTest, ANewSizeInterruptsTheDriverAndChangesTheGeneration) {
  constexpr uint64_t kColumns = offsetof(virtio_console_config, cols);
  constexpr uint64_t kRows = offsetof(virtio_console_config, rows);
  EXPECT_EQ(Config(kColumns), 0u);
  const uint32_t generation = Register(VIRTIO_MMIO_CONFIG_GENERATION);
  console_->SetSize(132, 43);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_EQ(Config(kColumns), 132u);
  EXPECT_EQ(Config(kRows), 43u);
  EXPECT_NE(Register(VIRTIO_MMIO_CONFIG_GENERATION), generation);
}

TEST_P(ConsoleTest, ASizeThatIsKnownIsAnnouncedToADriverThatBegins) {
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
  Reset();
  console_->SetSize(132, 43);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), 0u) << "no driver is there";
  RunConsole();
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_CONFIG});
}

TEST_P(ConsoleTest, ABufferThatWaitsForInputHoldsUpNoResetAndNoStop) {
  OfferInput(64);
  ASSERT_TRUE(WaitUntil(
      [&] { return device().workers()[Console::kReceive]->queue().next_available() == 1; }));
  Reset();
  RunConsole();
  OfferInput(64);
  EXPECT_EQ(console_->Receive("again"), 5u);
  EXPECT_EQ(TakeInput(), "again");
  OfferInput(64);
  ASSERT_TRUE(WaitUntil(
      [&] { return device().workers()[Console::kReceive]->queue().next_available() == 2; }));
  EXPECT_THAT(device().Stop(), IsEmpty());
}

// A reader that has stopped holds up the queue of the output and nothing else.
TEST_P(ConsoleTest, AnOutputThatIsNotTakenHoldsUpNoInputAndNoStop) {
  SetGate(false);
  OfferOutput({Readable(kOutput, 5)});
  ASSERT_TRUE(WaitUntil([&] { return output().size() == 5; }));
  OfferInput(64);
  EXPECT_EQ(console_->Receive("input"), 5u);
  EXPECT_EQ(TakeInput(), "input");
  EXPECT_TRUE(StopsAllBut("console-1"));
  SetGate(true);
  EXPECT_THAT(device().Stop(), IsEmpty());
}

TEST_P(ConsoleTest, OfAnOutputWhoseDeviceIsResetNoFurtherPieceIsPassedOn) {
  at_output_ = [this] { SetRegister(VIRTIO_MMIO_STATUS, 0); };
  OfferOutput({Readable(kOutput, 3 * Console::kPieceBytes)});
  ASSERT_TRUE(WaitUntil([&] { return Register(VIRTIO_MMIO_STATUS) == 0; }));
  EXPECT_EQ(output().size(), Console::kPieceBytes);
}

TEST_P(ConsoleTest, ABufferOfTheWrongDirectionNeedsAReset) {
  receive().SetChain(0, {Readable(kInput, 8)});
  receive().Offer(0);
  Notify(Console::kReceive);
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
  Reset();
  RunConsole();
  OfferOutput({Readable(kOutput, 8), Writable(kInput, 8)});
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
  EXPECT_EQ(output(), "");
}

UNDERFOOT_FOR_BOTH_BACKINGS(ConsoleTest);

}  // namespace
}  // namespace underfoot::testing
