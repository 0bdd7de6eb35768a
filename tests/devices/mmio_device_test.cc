// The registers of virtio-mmio, and a device with workers behind them.

#include "vmm/devices/virtio/mmio_device.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <cstring>

#include "tests/devices/device_test.h"

namespace underfoot::testing {
namespace {

class MmioDeviceTest : public DeviceTest {};

TEST_P(MmioDeviceTest, TheRegistersIdentifyTheDevice) {
  EXPECT_EQ(Register(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976u);
  EXPECT_EQ(Register(VIRTIO_MMIO_VERSION), 2u);
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), EchoBackend::kId);
  EXPECT_EQ(Register(VIRTIO_MMIO_STATUS), 0u);
  EXPECT_EQ(Register(VIRTIO_MMIO_QUEUE_NUM_MAX), virtio::Virtqueue::kMaxSize);
  SetRegister(VIRTIO_MMIO_QUEUE_SEL, kQueues);
  EXPECT_EQ(Register(VIRTIO_MMIO_QUEUE_NUM_MAX), 0u) << "there is no such queue";
  SetRegister(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(Register(VIRTIO_MMIO_QUEUE_READY), 0u);
  EXPECT_EQ(Register(VIRTIO_MMIO_SHM_LEN_LOW), ~0u);
  EXPECT_EQ(Register(VIRTIO_MMIO_CONFIG_GENERATION), 0u);
  uint64_t features = 0;
  for (const uint32_t half : {1u, 0u}) {
    SetRegister(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    features = features << 32 | Register(VIRTIO_MMIO_DEVICE_FEATURES);
  }
  EXPECT_EQ(features, kAllFeatures | kInOrder | EchoBackend::kFeature);
  SetRegister(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_FEATURES), 0u);
}

TEST_P(MmioDeviceTest, TheConfigurationIsReadInAnyWidthAndEnds) {
  for (const size_t width : {1u, 2u, 4u, 8u}) {
    for (uint64_t at = 0; at < 24; at += width) {
      std::array<uint8_t, 8> bytes;
      bytes.fill(0xee);
      device().Read(VIRTIO_MMIO_CONFIG + at,
                    std::as_writable_bytes(std::span(bytes.data(), width)));
      for (size_t i = 0; i < width; ++i) {
        EXPECT_EQ(bytes[i], at + i < 12 ? at + i : 0) << width << " bytes at " << at;
      }
    }
  }
}

TEST_P(MmioDeviceTest, AnAccessOfAnotherWidthDoesNothing) {
  uint16_t half = 0xeeee;
  device().Read(VIRTIO_MMIO_MAGIC_VALUE, std::as_writable_bytes(std::span(&half, 1)));
  EXPECT_EQ(half, 0u);
  uint64_t both = ~uint64_t{0};
  device().Read(VIRTIO_MMIO_MAGIC_VALUE, std::as_writable_bytes(std::span(&both, 1)));
  EXPECT_EQ(both, 0u);
  half = VIRTIO_CONFIG_S_ACKNOWLEDGE;
  device().Write(VIRTIO_MMIO_STATUS, std::as_bytes(std::span(&half, 1)));
  EXPECT_EQ(Register(VIRTIO_MMIO_STATUS), 0u);
  EXPECT_EQ(Register(VIRTIO_MMIO_MAGIC_VALUE + 2), 0u);
  EXPECT_EQ(Register(0xff0), 0u);
}

TEST_P(MmioDeviceTest, OnlyFeaturesThatItOffersAreAccepted) {
  for (const uint64_t refused :
       {uint64_t{0}, EchoBackend::kFeature, virtio::kVersion1 | uint64_t{1} << 7,
        virtio::kVersion1 | uint64_t{1} << 40}) {
    SetRegister(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    SetFeatures(refused);
    SetRegister(VIRTIO_MMIO_STATUS, kNegotiated);
    EXPECT_EQ(Register(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0u) << refused;
    GoOn();
    EXPECT_EQ(Register(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, 0u);
    Reset();
  }
  Negotiate(kAllFeatures | EchoBackend::kFeature);
  SetFeatures(0);  // too late
  Place(0, driver().layout());
  GoOn();
  EXPECT_TRUE(RequestWorks());
  // The event index was accepted. The worker asks for the next kick after it has answered.
  EXPECT_TRUE(WaitUntil([&] { return driver().AvailEvent() == 1; }));
}

TEST_P(MmioDeviceTest, ARequestIsServedAndInterruptsOnce) {
  UniqueFd interrupt(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fd = interrupt.get();
  device().SetInterruptFd(std::move(interrupt));
  Run();
  EXPECT_TRUE(RequestWorks());
  pollfd waits{.fd = fd, .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&waits, 1, static_cast<int>(kPatience.count())), 1);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_VRING});
  SetRegister(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), 0u);
  // The used event is still 0, so the driver has not asked for a second one.
  EXPECT_TRUE(RequestWorks());
  const virtio::QueueCounters& counters = device().workers()[0]->counters();
  EXPECT_TRUE(WaitUntil([&] { return counters.requests.Get() == 2; }));
  EXPECT_EQ(counters.interrupts.Get(), 1u);
  EXPECT_GE(counters.kicks.Get(), 1u);
  eventfd_t raised = 0;
  EXPECT_EQ(eventfd_read(fd, &raised), 0);
  EXPECT_EQ(raised, 1u);
}

TEST_P(MmioDeviceTest, AQueueMayBeMadeReadyWhileTheDeviceRuns) {
  Negotiate();
  GoOn();
  Place(0, driver().layout());
  EXPECT_TRUE(RequestWorks());
  FakeDriver other(side(), 8, 30);
  Place(1, other.layout());
  other.SetChain(0, {Writable(kData + 22)});
  other.Offer(0);
  Notify(1);
  EXPECT_TRUE(WaitUntil([&] { return other.Take().has_value(); }));
}

TEST_P(MmioDeviceTest, AResetIsOverWhenTheWorkersHoldNoRing) {
  Run();
  echo().SetGate(false);
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return echo().serving() == 1; }));
  SetRegister(VIRTIO_MMIO_STATUS, 0);
  EXPECT_NE(Register(VIRTIO_MMIO_STATUS), 0u);
  SetRegister(VIRTIO_MMIO_STATUS, kNegotiated);  // too early: without effect
  EXPECT_FALSE(device().workers()[0]->quiet());
  echo().SetGate(true);
  EXPECT_TRUE(WaitUntil([&] { return Register(VIRTIO_MMIO_STATUS) == 0; }));
  EXPECT_TRUE(device().workers()[0]->quiet());
  EXPECT_EQ(mmu().Stats().pfn_caches.count, 0u);
  EXPECT_EQ(device().resets(), 1u);
  driver_.emplace(side());
  Run();
  EXPECT_TRUE(RequestWorks());
}

TEST_P(MmioDeviceTest, AQueueThatIsTakenBackReadsAsReadyUntilItsWorkerHoldsNoRing) {
  Run();
  echo().SetGate(false);
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return echo().serving() == 1; }));
  SetRegister(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(Register(VIRTIO_MMIO_QUEUE_READY), 1u);
  echo().SetGate(true);
  EXPECT_TRUE(WaitUntil([&] { return Register(VIRTIO_MMIO_QUEUE_READY) == 0; }));
  EXPECT_EQ(mmu().Stats().pfn_caches.count, 0u);
  driver_.emplace(side());
  Place(0, driver().layout());
  EXPECT_TRUE(RequestWorks());
}

TEST_P(MmioDeviceTest, ADriverThatPlacesAQueueWronglyHasToReset) {
  const virtio::RingLayout good = driver().layout();
  std::vector<virtio::RingLayout> wrong(9, good);
  wrong[0].size = 0;
  wrong[1].size = 12;
  wrong[2].size = 512;
  wrong[3].descriptors += 8;
  wrong[4].available += 1;
  wrong[5].used += 2;
  wrong[6].descriptors = Gpa{side().memory->bytes() - 16};
  wrong[7].used = Gpa{~uint64_t{0} - 3};
  wrong[8].available = side().memory->slots()[3].gpa - 2;  // into the next memslot
  for (size_t i = 0; i < wrong.size(); ++i) {
    Negotiate();
    EXPECT_FALSE(NeedsReset());
    Place(0, wrong[i]);
    EXPECT_TRUE(NeedsReset()) << i;
    EXPECT_EQ(Register(VIRTIO_MMIO_QUEUE_READY), 0u);
    GoOn();
    Reset();
  }
  EXPECT_EQ(device().needed_resets(), wrong.size());
  Place(0, good);  // before the features
  EXPECT_TRUE(NeedsReset());
  Reset();
  Run();
  EXPECT_TRUE(RequestWorks());
}

TEST_P(MmioDeviceTest, ABreachStopsTheOtherQueuesToo) {
  FakeDriver other(side(), 8, 30);
  Negotiate();
  Place(0, driver().layout());
  Place(1, other.layout());
  GoOn();
  EXPECT_TRUE(RequestWorks());
  other.SetIndex(100);
  Notify(1);
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
  EXPECT_TRUE(WaitUntil([&] { return device().workers()[0]->quiet(); }));
  EXPECT_EQ(device().needed_resets(), 1u);
}

// A host that has no thread left must not be left with half a device.
TEST_P(MmioDeviceTest, ADeviceThatNeverRanStops) {
  auto other = std::make_unique<virtio::MmioDevice>(parts(), std::make_unique<EchoBackend>(3));
  other.reset();
}

UNDERFOOT_FOR_BOTH_BACKINGS(MmioDeviceTest);

}  // namespace
}  // namespace underfoot::testing
