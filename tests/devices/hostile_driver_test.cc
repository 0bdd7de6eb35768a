// Drivers that break every rule: the device asks for a reset, and never crashes, hangs, or touches
// what is not RAM. After the reset it works.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/devices/device_test.h"
#include "tests/support/random.h"

namespace underfoot::testing {
namespace {

using virtio::Descriptor;
using virtio::QueueOutcome;

class HostileDriverTest : public DeviceTest {
 protected:
  struct Breach {
    std::string name;
    std::function<void()> make;
  };

  static Descriptor With(Descriptor descriptor, uint16_t flags, uint16_t next) {
    descriptor.flags = static_cast<uint16_t>(descriptor.flags | flags);
    descriptor.next = next;
    return descriptor;
  }
  Descriptor Outside(uint64_t gpa, uint32_t bytes) {
    return {.gpa = gpa, .bytes = bytes, .flags = 0, .next = 0};
  }
  // A chain of one indirect table.
  void OfferTable(const std::vector<Descriptor>& entries) {
    SetTable(kData, entries);
    driver().SetChain(0, {Table(kData, static_cast<uint32_t>(entries.size()))});
    driver().Offer(0);
  }
  void OfferChain(const std::vector<Descriptor>& buffers) {
    driver().SetChain(0, buffers);
    driver().Offer(0);
  }

  std::vector<Breach> Breaches() {
    constexpr uint16_t kNext = Descriptor::kNext;
    const uint16_t size = driver().layout().size;
    const uint64_t end = side().memory->bytes();
    return {
        // One request was served, and so size + 1 would be right.
        {"an index too far ahead",
         [=, this] { driver().SetIndex(static_cast<uint16_t>(size + 2)); }},
        {"an index that went back", [=, this] { driver().SetIndex(0xffff); }},
        {"a head past the end", [=, this] { driver().Offer(size); }},
        {"a head far past the end", [=, this] { driver().Offer(0xffff); }},
        {"a chain past the end",
         [=, this] {
           driver().SetDescriptor(0, With(Readable(kData), kNext, size));
           driver().Offer(0);
         }},
        {"a descriptor that follows itself",
         [=, this] {
           driver().SetDescriptor(2, With(Readable(kData), kNext, 2));
           driver().Offer(2);
         }},
        {"a loop of three",
         [=, this] {
           for (uint16_t i = 0; i < 3; ++i) {
             driver().SetDescriptor(
                 i, With(Readable(kData), kNext, static_cast<uint16_t>((i + 1) % 3)));
           }
           driver().Offer(0);
         }},
        {"a buffer at the end of RAM", [=, this] { OfferChain({Outside(end, 1)}); }},
        {"a buffer over the end of RAM", [=, this] { OfferChain({Outside(end - 1, 2)}); }},
        {"a buffer of which the end wraps",
         [=, this] { OfferChain({Outside(~uint64_t{0} - 7, 16)}); }},
        {"a buffer at the highest address",
         [=, this] { OfferChain({Outside(~uint64_t{0}, 0xffffffff)}); }},
        {"a buffer with the longest length",
         [=, this] { OfferChain({Outside(side().GpaAt(0).value, 0xffffffff)}); }},
        {"more than 4 GiB in all",
         [=, this] {
           // All of RAM, more than 128 times.
           std::vector<Descriptor> entries;
           for (uint16_t i = 0; i < 140; ++i) {
             entries.push_back(
                 With(Outside(0, static_cast<uint32_t>(end)), kNext, static_cast<uint16_t>(i + 1)));
           }
           entries.back().flags = 0;
           OfferTable(entries);
         }},
        {"what the device reads after what it writes",
         [=, this] {
           OfferChain({Writable(kData), Readable(kData)});
         }},
        {"a table that is followed",
         [=, this] {
           OfferChain({Table(kData, 1), Readable(kData)});
         }},
        {"a table in a table", [=, this] { OfferTable({Table(kData + 1, 1)}); }},
        {"an empty table", [=, this] { OfferChain({Table(kData, 0)}); }},
        {"a table of a part of an entry",
         [=, this] {
           Descriptor table = Table(kData, 1);
           table.bytes = 17;
           OfferChain({table});
         }},
        {"a table that is too long",
         [=, this] { OfferChain({Table(kData, virtio::Virtqueue::kMaxIndirect + 1)}); }},
        {"a table outside of RAM",
         [=, this] {
           Descriptor table = Table(kData, 2);
           table.gpa = end - 16;
           OfferChain({table});
         }},
        {"a table with a loop",
         [=, this] {
           OfferTable({With(Readable(kData), kNext, 1), With(Readable(kData), kNext, 0)});
         }},
        {"a table with a link past its end",
         [=, this] { OfferTable({With(Readable(kData), kNext, 1)}); }},
        {"a request that cannot be answered", [=, this] { OfferChain({Readable(kData, 8)}); }},
    };
  }
};

TEST_P(HostileDriverTest, ABreachOfTheRulesEndsInAResetAndTheDeviceWorksAgain) {
  for (const Breach& breach : Breaches()) {
    SCOPED_TRACE(breach.name);
    Run();
    EXPECT_TRUE(RequestWorks());
    const uint16_t served = driver().UsedIndex();
    breach.make();
    Notify();
    ASSERT_TRUE(WaitUntil([&] { return NeedsReset(); }));
    EXPECT_EQ(driver().UsedIndex(), served) << "a broken request was answered";
    EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG,
              uint32_t{VIRTIO_MMIO_INT_CONFIG});
    Notify();
    Reset();
    driver_.emplace(side());
  }
  Run();
  EXPECT_TRUE(RequestWorks());
}

TEST_P(HostileDriverTest, ATableIsRefusedWhereItWasNotNegotiated) {
  Run(virtio::kVersion1);
  OfferTable({Writable(kData)});
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
}

// Each chain that is taken lies in RAM and is bounded, whatever the rings contain.
TEST_P(HostileDriverTest, RandomRingsGiveOnlyChainsInRam) {
  Random random;
  const uint64_t end = side().memory->bytes();
  const uint16_t size = driver().layout().size;
  uint64_t taken = 0;
  uint64_t broken = 0;
  const auto some_descriptor = [&] {
    const uint64_t gpas[] = {side().GpaAt(kData).value + random.Between(0, 4096), end - 64,
                             random.Next(), 0};
    const uint32_t lengths[] = {static_cast<uint32_t>(random.Between(0, 64)), 0xffffffff, 4096,
                                static_cast<uint32_t>(16 * random.Between(1, 8))};
    // Mostly ordinary ones, or each chain would end at once.
    const bool ordinary = random.Below(8) != 0;
    return Descriptor{.gpa = ordinary ? gpas[0] : gpas[random.Below(4)],
                      .bytes = ordinary ? lengths[random.Below(2) * 3] : lengths[random.Below(4)],
                      .flags = static_cast<uint16_t>(random.Below(8)),
                      .next = static_cast<uint16_t>(random.Below(size + (ordinary ? 0 : 4)))};
  };
  Start(kAllFeatures);
  for (int n = 0; n < 20000; ++n) {
    for (int i = 0; i < 3; ++i) {
      driver().SetDescriptor(static_cast<uint16_t>(random.Below(size)), some_descriptor());
    }
    std::vector<Descriptor> table(8);
    for (Descriptor& descriptor : table) descriptor = some_descriptor();
    SetTable(kData, table);
    const auto head = static_cast<uint16_t>(random.Below(size + (random.Below(20) == 0 ? 2 : 0)));
    driver().SetHead(queue().next_available(), head);
    driver().SetIndex(static_cast<uint16_t>(queue().next_available() + 1));
    const QueueOutcome outcome = Pop();
    if (outcome == QueueOutcome::kBroken) {
      ++broken;
      continue;
    }
    ASSERT_EQ(outcome, QueueOutcome::kDone);
    ++taken;
    ASSERT_LE(chain_.readable.size() + chain_.writable.size(),
              size + virtio::Virtqueue::kMaxIndirect);
    for (const auto& buffers : {chain_.readable, chain_.writable}) {
      for (const virtio::Buffer& buffer : buffers) {
        ASSERT_LT(buffer.gpa.value, end);
        ASSERT_LE(buffer.bytes, end - buffer.gpa.value);
      }
    }
    ASSERT_EQ(Publish(chain_.head, 0), QueueOutcome::kDone);
  }
  EXPECT_GT(taken, 500u);
  EXPECT_GT(broken, 500u);
}

// Any sequence of register accesses and ring contents, with the workers running beside it.
TEST_P(HostileDriverTest, RandomRegistersAreSurvived) {
  Random random;
  const uint64_t offsets[] = {VIRTIO_MMIO_DEVICE_FEATURES_SEL,
                              VIRTIO_MMIO_DRIVER_FEATURES,
                              VIRTIO_MMIO_DRIVER_FEATURES_SEL,
                              VIRTIO_MMIO_QUEUE_SEL,
                              VIRTIO_MMIO_QUEUE_NUM,
                              VIRTIO_MMIO_QUEUE_READY,
                              VIRTIO_MMIO_QUEUE_NOTIFY,
                              VIRTIO_MMIO_INTERRUPT_ACK,
                              VIRTIO_MMIO_STATUS,
                              VIRTIO_MMIO_QUEUE_DESC_LOW,
                              VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
                              VIRTIO_MMIO_QUEUE_USED_LOW};
  // Each queue has memory of its own, since two threads that copy to the same bytes are a race that
  // only a guest may have.
  FakeDriver drivers[kQueues] = {FakeDriver(side(), 16), FakeDriver(side(), 16, 30)};
  uint64_t ran = 0;
  for (int n = 0; n < 4000; ++n) {
    switch (random.Below(6)) {
      case 0:
        if (Register(VIRTIO_MMIO_STATUS) == 0) {
          SetRegister(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
          SetFeatures(kAllFeatures);
          SetRegister(VIRTIO_MMIO_STATUS, kNegotiated);
          const auto queue = static_cast<uint32_t>(random.Below(kQueues));
          Place(queue, drivers[queue].layout());
          GoOn();
        }
        break;
      case 1: {
        const uint64_t queue = random.Below(kQueues);
        drivers[queue].SetDescriptor(static_cast<uint16_t>(random.Below(16)),
                                     {.gpa = side().GpaAt(10 + 30 * queue + random.Below(8)).value,
                                      .bytes = static_cast<uint32_t>(random.Below(64)),
                                      .flags = static_cast<uint16_t>(random.Below(4)),
                                      .next = static_cast<uint16_t>(random.Below(16))});
        drivers[queue].Offer(static_cast<uint16_t>(random.Below(16)));
        break;
      }
      default:
        SetRegister(offsets[random.Below(std::size(offsets))],
                    static_cast<uint32_t>(random.Below(3) == 0 ? random.Next() : random.Below(8)));
    }
    ran += (Register(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) != 0 ? 1 : 0;
  }
  EXPECT_GT(ran, 0u);
  Reset();
  driver_.emplace(side());
  Run();
  EXPECT_TRUE(RequestWorks());
}

UNDERFOOT_FOR_BOTH_BACKINGS(HostileDriverTest);

}  // namespace
}  // namespace underfoot::testing
