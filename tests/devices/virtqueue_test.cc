// A virtqueue against a driver in plain memory: what is copied, what is published, and what happens
// when the memory of a ring moves or goes away in the middle.

#include "vmm/devices/virtio/virtqueue.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "tests/devices/queue_test.h"

namespace underfoot::testing {
namespace {

using virtio::Descriptor;
using virtio::QueueOutcome;
using virtio::UsedElement;

class VirtqueueTest : public QueueTest {
 protected:
  // The memslot of the rings, at the hva of the second one of its kind: the same gpas, and other
  // memory. The content comes along.
  void MoveTheRingsToOtherMemory() {
    const RamSlot& slot = side().memory->slots()[2];
    ASSERT_TRUE(mmu().DeleteMemslot(slot.id).ok());
    std::memcpy(PointerOf(Elsewhere(0)), PointerOf(side().PageAt(0)), kRingBytes);
    Create(slot, Elsewhere(0));
  }
  void DeleteSlot() { ASSERT_TRUE(mmu().DeleteMemslot(side().memory->slots()[2].id).ok()); }
  void CreateSlot() {
    const RamSlot& slot = side().memory->slots()[2];
    Create(slot, slot.hva);
  }
  Hva Elsewhere(uint64_t page) const { return side_->memory->slots()[4].hva + page * kPageSize; }

  static constexpr uint64_t kRingBytes = 3 * kPageSize;

 private:
  void Create(const RamSlot& slot, Hva hva) {
    const Gfn gfn = GfnOf(slot.gpa);
    // The other slot must not show the same memory.
    if (hva != slot.hva) {
      ASSERT_TRUE(mmu().DeleteMemslot(side().memory->slots()[4].id).ok());
    }
    ASSERT_TRUE(
        mmu()
            .CreateMemslot({.id = slot.id, .gfns = {gfn, gfn + slot.bytes / kPageSize}, .hva = hva})
            .ok());
  }
};

TEST_P(VirtqueueTest, AChainIsTakenAsTheDriverWroteItAndPublishedOnce) {
  Start();
  EXPECT_EQ(Pop(), QueueOutcome::kEmpty);
  driver().SetChain(3, {Readable(kData, 16), Readable(kData + 1, 100), Writable(kData + 2, 33)});
  driver().Offer(3);

  ASSERT_EQ(Pop(), QueueOutcome::kDone);
  EXPECT_EQ(chain_.head, 3u);
  ASSERT_EQ(chain_.readable.size(), 2u);
  EXPECT_EQ(chain_.readable[1].gpa, side().GpaAt(kData + 1));
  EXPECT_EQ(chain_.readable_bytes, 116u);
  ASSERT_EQ(chain_.writable.size(), 1u);
  EXPECT_EQ(chain_.writable_bytes, 33u);
  EXPECT_EQ(Pop(), QueueOutcome::kEmpty);
  EXPECT_EQ(driver().UsedIndex(), 0u);

  ASSERT_EQ(Publish(3, 33), QueueOutcome::kDone);
  const std::optional<UsedElement> used = driver().Take();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->head, 3u);
  EXPECT_EQ(used->written, 33u);
  EXPECT_FALSE(driver().Take().has_value());
}

TEST_P(VirtqueueTest, TheIndicesWrap) {
  Start(kAllFeatures);
  driver().SetChain(0, {Writable(kData)});
  constexpr uint32_t kMore = 0x10000 + 100;
  for (uint32_t n = 0; n < kMore; ++n) {
    driver().Offer(0);
    ASSERT_EQ(Pop(), QueueOutcome::kDone) << n;
    ASSERT_EQ(Publish(0, n), QueueOutcome::kDone);
    const std::optional<UsedElement> used = driver().Take();
    ASSERT_TRUE(used.has_value());
    ASSERT_EQ(used->written, n);
  }
  EXPECT_EQ(queue().next_used(), 100u);
}

TEST_P(VirtqueueTest, AnIndirectTableIsFollowedAlsoBehindOrdinaryDescriptors) {
  Start(kAllFeatures);
  Descriptor first = Readable(kData + 1, 10);
  first.flags = Descriptor::kNext;
  first.next = 2;
  SetTable(kData, {first, Readable(kData), Writable(kData + 2, 20)});
  driver().SetChain(0, {Readable(kData + 3, 5), Table(kData, 3)});
  driver().Offer(0);
  ASSERT_EQ(Pop(), QueueOutcome::kDone);
  EXPECT_EQ(chain_.readable_bytes, 15u);
  EXPECT_EQ(chain_.writable_bytes, 20u);
}

TEST_P(VirtqueueTest, TheDeviceRequestsTheNextKickAndAgainIfAChainHasArrived) {
  Start(kAllFeatures);
  EXPECT_EQ(queue().EnableKicks(*reader_), QueueOutcome::kEmpty);
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  EXPECT_EQ(queue().EnableKicks(*reader_), QueueOutcome::kDone);
  ASSERT_EQ(Pop(), QueueOutcome::kDone);
  EXPECT_EQ(queue().EnableKicks(*reader_), QueueOutcome::kEmpty);
  EXPECT_EQ(driver().AvailEvent(), 1u);
}

TEST_P(VirtqueueTest, AnInterruptIsSentOnlyIfTheDriverRequestsIt) {
  driver().SetChain(0, {Writable(kData)});
  const auto next = [&] {
    driver().Offer(0);
    EXPECT_EQ(Pop(), QueueOutcome::kDone);
    EXPECT_EQ(Publish(0, 0), QueueOutcome::kDone);
    return queue().WantsInterrupt(*reader_);
  };
  Start(kAllFeatures);
  driver().SetUsedEvent(1);
  EXPECT_FALSE(next());
  EXPECT_TRUE(next());
  EXPECT_FALSE(next());
  queue().Stop();
  driver_.emplace(side());
  driver().SetChain(0, {Writable(kData)});
  Start();
  EXPECT_TRUE(next());
  driver().SetAvailableFlags(virtio::kNoInterrupt);
  EXPECT_FALSE(next());
  DeleteSlot();
  EXPECT_TRUE(queue().WantsInterrupt(*reader_)) << "in doubt it is raised";
  CreateSlot();
}

// Section 2.7.9. The other places of the run keep what stood there.
TEST_P(VirtqueueTest, InOrderOneElementStandsForARunOfAnswersThatAreWhole) {
  constexpr uint16_t kCount = 6;
  Start(kInOrder);
  for (uint16_t i = 0; i < kCount; ++i) {
    driver().SetChain(i, {Writable(kData + i)});
    driver().Offer(i);
  }
  std::array<virtio::Chain, kCount> chains;
  size_t taken = 0;
  ASSERT_EQ(queue().Pop(*reader_, chains, taken), QueueOutcome::kDone);
  ASSERT_EQ(taken, kCount);
  const std::array<virtio::Answer, kCount> answers = {{{.head = 0, .written = 8, .whole = true},
                                                       {.head = 1, .written = 8, .whole = true},
                                                       {.head = 2, .written = 3},
                                                       {.head = 3, .written = 5},
                                                       {.head = 4, .written = 8, .whole = true},
                                                       {.head = 5, .written = 8, .whole = true}}};
  ASSERT_EQ(queue().Publish(*reader_, answers), QueueOutcome::kDone);
  EXPECT_EQ(driver().UsedIndex(), kCount);
  const auto element = [&](uint16_t place) {
    const UsedElement used = driver().Used(place);
    return std::pair(used.head, used.written);
  };
  EXPECT_EQ(element(0), std::pair(2u, 3u));
  EXPECT_EQ(element(1), std::pair(0u, 0u));
  EXPECT_EQ(element(3), std::pair(3u, 5u));
  EXPECT_EQ(element(4), std::pair(5u, 8u));
  for (const virtio::Answer& answer : answers) {
    const std::optional<UsedElement> used = driver().TakeInOrder(8);
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->head, answer.head);
    EXPECT_EQ(used->written, answer.written);
  }
}

TEST_P(VirtqueueTest, WhatTheDevicePublishesIsInTheDirtyLog) {
  const uint32_t slot = side().memory->slots()[2].id;
  ASSERT_TRUE(mmu().SetMemslotFlags(slot, {.log_dirty = true}).ok());
  Start(kAllFeatures);
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  ASSERT_EQ(Pop(), QueueOutcome::kDone);
  ASSERT_EQ(Publish(0, 0), QueueOutcome::kDone);
  const auto dirty = [&] {
    std::vector<uint64_t> pages;
    mmu().CollectDirty(slot)->ForEach([&](uint64_t page) { pages.push_back(page); });
    return pages;
  };
  EXPECT_EQ(dirty(), std::vector<uint64_t>{2});
  EXPECT_TRUE(dirty().empty());
  ASSERT_EQ(queue().EnableKicks(*reader_), QueueOutcome::kEmpty);
  EXPECT_EQ(dirty(), std::vector<uint64_t>{2});
}

TEST_P(VirtqueueTest, AnElementGoesToWhereTheRingIsNow) {
  Start();
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  ASSERT_EQ(Pop(), QueueOutcome::kDone);
  ASSERT_EQ(Publish(0, 1), QueueOutcome::kDone);
  driver().Offer(0);
  ASSERT_EQ(Pop(), QueueOutcome::kDone);

  MoveTheRingsToOtherMemory();
  ASSERT_EQ(Publish(0, 2), QueueOutcome::kDone);

  EXPECT_EQ(driver().UsedIndex(), 1u) << "the memory that is no ring any more was written";
  std::byte* const used = static_cast<std::byte*>(PointerOf(Elsewhere(2)));
  EXPECT_EQ(virtio::WordAt<uint16_t>(used, virtio::kRingIndex).load(kAcquire), 2u);
  EXPECT_GE(queue().refreshes_in_request(), 1u);
}

TEST_P(VirtqueueTest, ARequestIsPublishedOnceThoughItsRingWasDroppedAndWasAway) {
  Start();
  driver().SetChain(0, {Writable(kData)});
  for (uint32_t n = 1; n <= 20; ++n) {
    driver().Offer(0);
    ASSERT_EQ(Pop(), QueueOutcome::kDone);
    if (n % 3 == 0) {
      DeleteSlot();
      EXPECT_EQ(Publish(0, n), QueueOutcome::kAway);
      EXPECT_EQ(Pop(), QueueOutcome::kAway);
      CreateSlot();
    } else {
      InvalidationScope bracket(mmu().notifier(), {side().Pages(0, 3)});
    }
    ASSERT_EQ(Publish(0, n), QueueOutcome::kDone);
    const std::optional<UsedElement> used = driver().Take();
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->written, n);
    EXPECT_FALSE(driver().Take().has_value()) << "published twice";
  }
}

TEST_P(VirtqueueTest, ARingIsUsedOnceItsMemslotExists) {
  DeleteSlot();
  Start();
  driver().SetChain(0, {Writable(kData)});
  driver().Offer(0);
  EXPECT_EQ(Pop(), QueueOutcome::kAway);
  CreateSlot();
  EXPECT_EQ(Pop(), QueueOutcome::kDone);
}

// What stands in the pages between Begin and End is no content of the guest. A copy that leaves its
// section first would see it.
TEST_P(VirtqueueTest, NothingIsReadOrWrittenWhileTheMemoryIsInABracket) {
  Start(kAllFeatures);
  constexpr uint32_t kRequests = 3000;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> brackets{0};
  std::atomic<uint64_t> written_inside{0};
  std::vector<std::byte> content(3 * kPageSize);
  std::byte* const rings = static_cast<std::byte*>(PointerOf(side().PageAt(0)));
  std::thread host([&] {
    std::vector<std::byte> poison(content.size(), std::byte{0xa5});
    while (!stop) {
      {
        InvalidationScope bracket(mmu().notifier(), {side().Pages(0, 3)});
        std::memcpy(content.data(), rings, content.size());
        std::memcpy(rings, poison.data(), poison.size());
        std::this_thread::yield();
        if (std::memcmp(rings, poison.data(), poison.size()) != 0) ++written_inside;
        std::memcpy(rings, content.data(), content.size());
      }
      ++brackets;
      // The driver, below, must not write inside a bracket either.
      while (!stop && brackets % 2 == 1) std::this_thread::yield();
    }
  });
  uint32_t wrong = 0;
  for (uint32_t n = 0; n < kRequests; ++n) {
    // The host waits, at an odd count, while the driver writes.
    while (brackets % 2 == 0) std::this_thread::yield();
    driver().SetChain(0, {Readable(kData, 8 + n % 100), Writable(kData, 1 + n)});
    driver().Offer(0);
    ++brackets;
    if (Pop() != QueueOutcome::kDone || chain_.head != 0 || chain_.readable_bytes != 8 + n % 100 ||
        chain_.writable_bytes != 1 + n) {
      ++wrong;
      break;
    }
    ASSERT_EQ(Publish(0, n), QueueOutcome::kDone);
  }
  stop = true;
  host.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(written_inside, 0u);
  EXPECT_EQ(driver().UsedIndex(), kRequests);
}

UNDERFOOT_FOR_BOTH_BACKINGS(VirtqueueTest);

}  // namespace
}  // namespace underfoot::testing
