// Requests that are taken, served and published together.

#include "vmm/devices/virtio/request_batch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "tests/devices/device_test.h"

namespace underfoot::testing {
namespace {

using virtio::QueueOutcome;
using virtio::RequestBatch;
using virtio::UsedElement;

class RequestBatchTest : public QueueTest {
 protected:
  static constexpr uint16_t kRequests = 8;  // two descriptors each
  static constexpr uint64_t kFrom = kData + 10;
  static constexpr uint64_t kTo = kData + 30;

  void SetUp() override {
    QueueTest::SetUp();
    if (side_ == nullptr) return;
    parts_.emplace(parts());
    direct_.emplace(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
    batch_ = std::make_unique<RequestBatch>(RequestBatch::Parts{.machine = *parts_,
                                                                .queue = queue(),
                                                                .backend = backend_,
                                                                .direct = *direct_,
                                                                .counters = counters_,
                                                                .let_go = let_go_,
                                                                .interrupt = [this] {
                                                                  ++interrupts_;
                                                                  if (on_interrupt_)
                                                                    on_interrupt_();
                                                                }});
    Start();
    for (uint16_t i = 0; i < kRequests; ++i) {
      From(i) = static_cast<uint8_t>(i + 1);
      To(i) = 0;
      driver().SetChain(static_cast<uint16_t>(2 * i),
                        {Readable(kFrom + i, 1), Writable(kTo + i, 1)});
      // The fault handler wakes this thread before it has made the leaf.
      for (const uint64_t page : {kFrom + i, kTo + i}) {
        ASSERT_EQ(mmu().faults().FaultIn(*reader_, side().GfnAt(page), Access::kWrite).outcome,
                  FaultInOutcome::kMapped);
      }
    }
  }
  void TearDown() override {
    batch_.reset();
    direct_.reset();
    QueueTest::TearDown();
  }

  uint8_t& From(uint16_t request) { return *ByteOf(kFrom + request); }
  uint8_t& To(uint16_t request) { return *ByteOf(kTo + request); }
  void OfferAll() {
    for (uint16_t i = 0; i < kRequests; ++i) driver().Offer(static_cast<uint16_t>(2 * i));
  }
  // Makes `count` steps, each of which works.
  void Step(unsigned count) {
    for (unsigned i = 0; i < count; ++i) ASSERT_EQ(batch_->Step(*reader_), QueueOutcome::kDone);
  }
  void ExpectAllAnsweredOnce() {
    for (uint16_t i = 0; i < kRequests; ++i) {
      const std::optional<UsedElement> used = driver().Take();
      ASSERT_TRUE(used.has_value()) << i;
      EXPECT_EQ(used->head, 2u * i);
      EXPECT_EQ(used->written, 1u);
      EXPECT_EQ(To(i), i + 2) << i;
    }
    EXPECT_FALSE(driver().Take().has_value()) << "published twice";
    EXPECT_EQ(counters_.requests.Get(), kRequests);
  }
  // The host takes the translations of a page.
  void Invalidate(uint64_t page, uint64_t pages = 1) {
    InvalidationScope bracket(mmu().notifier(), {side().Pages(page, pages)});
  }
  uint32_t RingSlot() { return side().memory->slots()[2].id; }
  void RemoveRingSlot() { EXPECT_TRUE(mmu().DeleteMemslot(RingSlot()).ok()); }
  void BringRingSlotBack() {
    const RamSlot slot = side().memory->slots()[2];
    EXPECT_TRUE(mmu()
                    .CreateMemslot({.id = slot.id,
                                    .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)},
                                    .hva = slot.hva})
                    .ok());
  }

  // Increments each byte, as EchoBackend does; `before` comes first.
  class Backend final : public virtio::Backend {
   public:
    std::string name() const override { return "increment"; }
    uint32_t device_id() const override { return 42; }
    uint64_t features() const override { return 0; }
    uint16_t queues() const override { return 1; }
    std::span<const std::byte> config() const override { return {}; }
    virtio::Served Serve(virtio::Request& request) override {
      ++calls_;
      if (before_) before_(request);
      if (later_) return {.later = true};
      std::byte byte{};
      if (!request.Read(0, std::span(&byte, 1))) return {.answered = false};
      byte = static_cast<std::byte>(std::to_integer<int>(byte) + 1);
      if (!request.Write(0, std::span(&byte, 1))) return {.answered = false};
      return {.written = 1};
    }

    bool may_serve_again() const override { return may_serve_again_; }

    unsigned calls_ = 0;
    bool later_ = false;
    bool may_serve_again_ = true;
    std::function<void(virtio::Request&)> before_;
  };

  Backend backend_;
  virtio::QueueCounters counters_;
  std::atomic<bool> let_go_{false};
  std::optional<virtio::Virtqueue::Parts> parts_;
  std::optional<DirectRequest> direct_;
  std::unique_ptr<RequestBatch> batch_;
  unsigned interrupts_ = 0;
  std::function<void()> on_interrupt_;

 private:
  uint8_t* ByteOf(uint64_t page) { return static_cast<uint8_t*>(PointerOf(side().PageAt(page))); }
};

TEST_P(RequestBatchTest, AllAreTakenAtOnceAndPublishedByOneIndexAndOneInterrupt) {
  EXPECT_EQ(batch_->Take(*reader_), QueueOutcome::kEmpty);
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  EXPECT_EQ(queue().next_available(), kRequests);
  // An interrupt is a promise that the bytes are there.
  on_interrupt_ = [&] {
    EXPECT_EQ(driver().UsedIndex(), kRequests);
    for (uint16_t i = 0; i < kRequests; ++i) EXPECT_EQ(To(i), i + 2) << i;
  };
  Step(kRequests);
  EXPECT_EQ(driver().UsedIndex(), 0u);
  Step(1);
  EXPECT_TRUE(batch_->empty());
  EXPECT_EQ(interrupts_, 1u);
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, ARingThatIsDroppedInTheMiddleGetsEachElementOnce) {
  OfferAll();
  // The first answer activates the cache.
  backend_.before_ = [&](virtio::Request& request) {
    if (backend_.calls_ == 2) request.BeforeWait();
  };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests);
  Invalidate(0, 3);
  Step(1);
  ExpectAllAnsweredOnce();
  EXPECT_GE(queue().refreshes_in_request(), 1u);
}

TEST_P(RequestBatchTest, ARingThatIsAwayGetsTheAnswersWhenItIsBack) {
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests);
  RemoveRingSlot();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kAway);
  BringRingSlotBack();
  Step(1);
  EXPECT_EQ(backend_.calls_, kRequests) << "a request was served again";
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, APageWithoutATranslationIsBroughtIn) {
  OfferAll();
  Invalidate(kFrom + 2);
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests);
  Invalidate(kTo + 3);
  Invalidate(kTo + 7);
  Step(1);
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, WhatIsAnsweredDoesNotWaitForARequestThatMayWaitForLong) {
  OfferAll();
  unsigned published = 0;
  backend_.before_ = [&](virtio::Request& request) {
    if (backend_.calls_ != 4) return;
    request.BeforeWait();
    published = driver().UsedIndex();
  };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests + 1);
  EXPECT_EQ(published, 3u);
  EXPECT_EQ(interrupts_, 2u);
  ExpectAllAnsweredOnce();
}

// A file that never answers must not hold up an answer that the ring could not take for a moment.
TEST_P(RequestBatchTest, ARequestThatMayWaitIsNotMadeBeforeTheAnswersAreOut) {
  OfferAll();
  unsigned waits = 0;
  backend_.before_ = [&](virtio::Request& request) {
    if (backend_.calls_ < 4 || waits != 0) return;
    request.BeforeWait();
    EXPECT_EQ(driver().UsedIndex(), 3u);
    ++waits;
  };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(3);
  RemoveRingSlot();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kAway);
  EXPECT_EQ(waits, 0u);
  BringRingSlotBack();
  Step(kRequests - 3 + 1);
  EXPECT_EQ(waits, 1u);
  ExpectAllAnsweredOnce();
}

// Every way in which an answer leaves a batch before others: a page that must be brought in, a request
// that may wait for long, one that is served again without staging, and a ring that is away.
TEST_P(RequestBatchTest, InOrderMeansTheOrderInWhichTheDriverOffered) {
  queue().Stop();
  Start(kInOrder);
  constexpr uint16_t kRounds = 3;
  for (uint16_t round = 0; round < kRounds; ++round) {
    OfferAll();
    backend_.before_ = [&, first = backend_.calls_](virtio::Request& request) {
      if (backend_.calls_ == first + 4) request.BeforeWait();
    };
    ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
    Step(kRequests);
    Invalidate(kTo + 2);
    Invalidate(kTo + 6);
    RemoveRingSlot();
    EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kAway);
    BringRingSlotBack();
    while (!batch_->empty()) ASSERT_EQ(batch_->Step(*reader_), QueueOutcome::kDone);
    for (uint16_t i = 0; i < kRequests; ++i) {
      const std::optional<UsedElement> used = driver().TakeInOrder(1);
      ASSERT_TRUE(used.has_value()) << round << " " << i;
      EXPECT_EQ(used->head, 2u * i) << round;
      EXPECT_EQ(used->written, 1u);
    }
    EXPECT_FALSE(driver().TakeInOrder(1).has_value());
    EXPECT_FALSE(driver().InRun()) << "an element names a request before those of its run";
  }
}

// A driver takes a request that is skipped for written whole.
TEST_P(RequestBatchTest, InOrderARequestThatIsWrittenInPartHasAnElementOfItsOwn) {
  queue().Stop();
  Start(kInOrder);
  for (const uint16_t i : {uint16_t{1}, uint16_t{5}}) {
    driver().SetChain(static_cast<uint16_t>(2 * i), {Readable(kFrom + i, 1), Writable(kTo + i, 2)});
  }
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests + 1);
  constexpr uint32_t kWhole = 77;  // skipped
  std::vector<uint32_t> written;
  while (const std::optional<UsedElement> used = driver().TakeInOrder(kWhole)) {
    EXPECT_EQ(used->head, 2 * written.size());
    written.push_back(used->written);
  }
  EXPECT_EQ(written, (std::vector<uint32_t>{kWhole, 1, kWhole, kWhole, kWhole, 1, kWhole, 1}));
}

TEST_P(RequestBatchTest, WhatCannotBeServedAgainDoesNotOvertakeAnAnswer) {
  backend_.may_serve_again_ = false;
  OfferAll();
  backend_.before_ = [&](virtio::Request&) {
    if (backend_.calls_ == 2) RemoveRingSlot();
  };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kAway);
  EXPECT_EQ(backend_.calls_, 2u);
  BringRingSlotBack();
  Step(kRequests - 2 + 1);
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, ARequestThatIsAnsweredLaterHoldsUpNoneBeforeIt) {
  OfferAll();
  backend_.before_ = [&](virtio::Request&) { backend_.later_ = backend_.calls_ == 4; };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(3);
  EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kEmpty);
  EXPECT_EQ(driver().UsedIndex(), 3u);
  Step(kRequests - 3 + 1);
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, WhatCannotBeServedAgainIsAnsweredAtOnce) {
  backend_.may_serve_again_ = false;
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  for (uint16_t i = 0; i < kRequests; ++i) {
    Step(1);
    EXPECT_EQ(driver().UsedIndex(), i + 1u);
    EXPECT_EQ(To(i), i + 2);
  }
  Step(1);
  ExpectAllAnsweredOnce();
}

TEST_P(RequestBatchTest, ARequestThatIsGivenUpGetsNoAnswer) {
  OfferAll();
  backend_.may_serve_again_ = false;
  backend_.before_ = [&](virtio::Request&) { let_go_ = backend_.calls_ == 4; };
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(4);
  batch_->Drop();
  EXPECT_TRUE(batch_->empty());
  EXPECT_EQ(driver().UsedIndex(), 3u);
}

// The slot of the payload becomes read-only after the backend has staged its bytes.
TEST_P(RequestBatchTest, AStagedPageThatCannotBeWrittenIsTheBackendsError) {
  const RamSlot& slot = side().memory->slots()[4];
  virtio::Descriptor elsewhere = Writable(0, 1);
  elsewhere.gpa = slot.gpa.value;
  driver().SetChain(6, {Readable(kFrom + 3, 1), elsewhere});
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests);
  ASSERT_TRUE(mmu().SetMemslotFlags(slot.id, {.read_only = true}).ok());
  EXPECT_EQ(batch_->Step(*reader_), QueueOutcome::kBroken);
  EXPECT_EQ(backend_.calls_, kRequests + 1);
  EXPECT_EQ(driver().UsedIndex(), 3u) << "the requests before it are answered";
}

TEST_P(RequestBatchTest, AChainThatBreaksTheRulesDoesNotTakeTheOnesBeforeItAlong) {
  OfferAll();
  virtio::Descriptor loop = Readable(kFrom + 5, 1);
  loop.flags = virtio::Descriptor::kNext;
  loop.next = 10;
  driver().SetDescriptor(10, loop);
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(5 + 1);
  EXPECT_EQ(driver().UsedIndex(), 5u);
  EXPECT_EQ(batch_->Take(*reader_), QueueOutcome::kBroken);
}

TEST_P(RequestBatchTest, EveryPageThatIsWrittenIsInTheDirtyLog) {
  ASSERT_TRUE(mmu().SetMemslotFlags(RingSlot(), {.log_dirty = true}).ok());
  OfferAll();
  ASSERT_EQ(batch_->Take(*reader_), QueueOutcome::kDone);
  Step(kRequests);
  ASSERT_TRUE(mmu().CollectDirty(RingSlot()).ok());
  Step(1);
  std::vector<uint64_t> pages;
  mmu().CollectDirty(RingSlot())->ForEach([&](uint64_t page) { pages.push_back(page); });
  std::vector<uint64_t> expected = {2};
  for (uint16_t i = 0; i < kRequests; ++i) expected.push_back(kTo + i);
  EXPECT_EQ(pages, expected);
}

// The host moves the pages under brackets, as an madvise would. What stands in them meanwhile is no
// content of the guest.
TEST_P(RequestBatchTest, NothingIsCopiedWhileAPageIsInABracket) {
  constexpr uint16_t kRounds = 400;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> brackets{0};
  std::atomic<uint64_t> wrong{0};
  std::thread host([&] {
    std::vector<std::byte> content(kRequests * kPageSize);
    const std::vector<std::byte> poison(content.size(), std::byte{0xa5});
    while (!stop) {
      for (const uint64_t first : {kFrom, kTo}) {
        std::byte* const bytes = static_cast<std::byte*>(PointerOf(side().PageAt(first)));
        InvalidationScope bracket(mmu().notifier(), {side().Pages(first, kRequests)});
        std::memcpy(content.data(), bytes, content.size());
        std::memcpy(bytes, poison.data(), poison.size());
        std::this_thread::yield();
        if (std::memcmp(bytes, poison.data(), poison.size()) != 0) ++wrong;
        std::memcpy(bytes, content.data(), content.size());
      }
      ++brackets;
      // The driver, below, does not write inside a bracket either.
      while (!stop && brackets % 2 == 1) std::this_thread::yield();
    }
  });
  for (uint16_t round = 0; round < kRounds; ++round) {
    while (brackets % 2 == 0) std::this_thread::yield();
    for (uint16_t i = 0; i < kRequests; ++i) {
      From(i) = static_cast<uint8_t>(round + i);
      To(i) = 0;
    }
    OfferAll();
    ++brackets;
    while (driver().UsedIndex() != static_cast<uint16_t>((round + 1) * kRequests)) {
      ASSERT_EQ(batch_->empty() ? batch_->Take(*reader_) : batch_->Step(*reader_),
                QueueOutcome::kDone);
    }
    while (brackets % 2 == 0) std::this_thread::yield();
    for (uint16_t i = 0; i < kRequests; ++i) {
      if (To(i) != static_cast<uint8_t>(round + i + 1)) ++wrong;
    }
  }
  stop = true;
  host.join();
  EXPECT_EQ(wrong, 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(RequestBatchTest);

TEST(PageBufferTest, ABufferOfAnySizeBeginsInTheMiddleOfAPage) {
  virtio::PageBuffer buffer;
  EXPECT_EQ(buffer.data(), nullptr);
  for (const size_t bytes : {size_t{1}, size_t{2048}, size_t{2049}, size_t{100'000}}) {
    const std::span<std::byte> room = buffer.AtLeast(bytes);
    ASSERT_EQ(room.size(), bytes);
    EXPECT_EQ(OffsetInPage(HvaOf(room.data())), kPageSize / 2);
    std::memset(room.data(), 7, room.size());
  }
  EXPECT_EQ(buffer.AtLeast(1).back(), std::byte{7}) << "it has room already";
}

}  // namespace
}  // namespace underfoot::testing
