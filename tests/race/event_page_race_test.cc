// An event page: a sender that never blocks against invalidations, against the guest that takes, and
// against other senders. Both orders of each pair of steps (vmm/devices/event_page.h).

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>

#include "tests/race/race_test.h"
#include "tests/support/event_guest.h"
#include "vmm/devices/event_page.h"

namespace underfoot::testing {
namespace {

using Delivery = EventPage::Delivery;
using Progress = EventPage::Progress;

class EventPageRaceTest : public RaceTest {
 protected:
  static constexpr uint64_t kPage = 5;
  static constexpr unsigned kChannel = 7;

  void SetUp() override { ASSERT_TRUE(page_.Activate(reader_, GpaAt(kPage)).ok()); }
  void TearDown() override {
    page_.Deactivate();
    RaceTest::TearDown();
  }

  Delivery Send() { return page_.Send(reader_, kChannel); }
  // An event that is sent by another thread.
  std::unique_ptr<Task> Sender() {
    return std::make_unique<Task>("sender", [this] {
      Reader reader(mmu_.readers());
      sent_as_.store(page_.Send(reader, kChannel));
    });
  }
  uint64_t CountAt(uint64_t page) {
    return static_cast<abi::EventPage*>(PointerOf(host_.PageAt(page)))->counts[kChannel];
  }
  bool DirtyNow() {
    const auto dirty = mmu_.CollectDirty(kSlot);
    bool found = false;
    dirty->ForEach([&](uint64_t page) { found = found || page == kPage; });
    return found;
  }
  void LogWrites() {
    ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.log_dirty = true}).ok());
    ASSERT_EQ(page_.Work(reader_), Progress::kDone);
    static_cast<void>(DirtyNow());
  }

  Reader reader_{mmu_.readers()};
  std::atomic<uint64_t> wakes_{0};
  std::atomic<Delivery> sent_as_{Delivery::kFast};
  EventPage page_{mmu_, "events", [this] { ++wakes_; }};
  EventGuest guest_{PointerOf(host_.PageAt(kPage))};
};

TEST_F(EventPageRaceTest, AnEventThroughAValidCacheIsDeliveredAtOnceAndOnce) {
  EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_EQ(guest_.Take(), 1u);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_EQ(CountAt(kPage), 1u);
  EXPECT_EQ(wakes_, 0u);
}

TEST_F(EventPageRaceTest, EventsOfAChannelThatIsPendingComeTogether) {
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_EQ(guest_.Pending(), uint64_t{1} << kChannel);
  EXPECT_EQ(guest_.Take(), 3u);
  EXPECT_EQ(guest_.Pending(), 0u);
  EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_EQ(guest_.Take(), 1u);
}

TEST_F(EventPageRaceTest, AnEventThatIsHandedOverIsDeliveredOnce) {
  MovePage(kPage);
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  EXPECT_EQ(wakes_, 2u);
  EXPECT_EQ(guest_.Take(), 0u);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_EQ(guest_.Take(), 2u);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_EQ(CountAt(kPage), 2u);
  EXPECT_EQ(page_.handed_over(), 2u);
  EXPECT_EQ(page_.delivered_by_work(), 2u);
  EXPECT_EQ(Send(), Delivery::kFast);
}

TEST_F(EventPageRaceTest, AnEventGoesToWhereThePageIsNow) {
  EXPECT_EQ(Send(), Delivery::kFast);
  DeleteSlot();
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  EXPECT_EQ(page_.Work(reader_), Progress::kAway) << "no memslot holds the page";
  constexpr uint64_t kElsewhere = kPages / 2 + kPage;
  std::memcpy(PointerOf(host_.PageAt(kElsewhere)), PointerOf(host_.PageAt(kPage)), kPageSize);
  CreateSlotAt(kPages / 2);
  guest_.SetPage(PointerOf(host_.PageAt(kElsewhere)));
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_EQ(guest_.Take(), 3u);
  EXPECT_EQ(CountAt(kPage), 1u) << "an event was sent to the old page";
}

//   sender                          invalidation
//   in the section, has counted
//                                   Begin waits
//   turns the bit, leaves
//                                   the host takes the page, with the whole event
TEST_F(EventPageRaceTest, ABeginWaitsForTheEventThatIsBeingDelivered) {
  Gate counted("event-counted");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(counted, *sender));
  Gate waits("reader-wait");
  uint64_t pending = 0;
  Task mover("mover", [&] {
    OpenBracket bracket = Begin(kPage);
    pending = guest_.Pending();
  });
  ASSERT_TRUE(StopsAt(waits, mover));
  counted.Open();
  sender->Join();
  waits.Open();
  mover.Join();
  EXPECT_EQ(pending, uint64_t{1} << kChannel);
  EXPECT_EQ(sent_as_.load(), Delivery::kFast);
}

//   sender                          invalidation
//   before the check
//                                   Begin
//   finds the cache invalid, hands the event over
//                                   the worker waits for the End and delivers
TEST_F(EventPageRaceTest, AnEventAfterABeginIsHandedOverAndWaitsForTheEnd) {
  Gate sending("event-sending");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(sending, *sender));
  OpenBracket bracket = Begin(kPage);
  sending.Open();
  sender->Join();
  EXPECT_EQ(sent_as_.load(), Delivery::kHandedOver);
  Gate waits("wait-for-end");
  Task worker("worker", [&] {
    Reader reader(mmu_.readers());
    EXPECT_EQ(page_.Work(reader), Progress::kDone);
  });
  ASSERT_TRUE(StopsAt(waits, worker));
  EXPECT_EQ(CountAt(kPage), 0u);
  host_.Move(host_.Pages(kPage));
  bracket.End();
  waits.Open();
  worker.Join();
  EXPECT_EQ(guest_.Take(), 1u);
}

//   worker                          invalidation
//   refreshed; has announced its section
//                                   Begin drops the cache
//   finds it invalid: takes nothing
TEST_F(EventPageRaceTest, WhatWasHandedOverStaysIfTheCacheIsDroppedBeforeTheCheck) {
  MovePage(kPage);
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  Gate announced("check-announced");
  Task worker("worker", [&] {
    Reader reader(mmu_.readers());
    EXPECT_EQ(page_.Work(reader), Progress::kAway);
  });
  ASSERT_TRUE(StopsAt(announced, worker));
  Gate waits("reader-wait");
  Task mover("mover", [&] { MovePage(kPage); });
  ASSERT_TRUE(StopsAt(waits, mover));
  announced.Open();
  worker.Join();
  waits.Open();
  mover.Join();
  EXPECT_EQ(CountAt(kPage), 0u);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_EQ(guest_.Take(), 1u);
}

//   sender                          guest
//   counts
//                                   looks: nothing is pending
//   finds the bit taken, turns it
//                                   takes the event
TEST_F(EventPageRaceTest, AnEventIsCountedBeforeItsBitIsTurned) {
  Gate counted("event-counted");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(counted, *sender));
  EXPECT_EQ(guest_.Take(), 0u);
  counted.Open();
  sender->Join();
  EXPECT_EQ(guest_.Take(), 1u);
}

//   sender                          guest
//   counts; the channel is pending from an earlier event
//                                   takes the channel, with both events
//   finds the bit taken, turns it
//                                   takes the channel: no new event, and none twice
TEST_F(EventPageRaceTest, AnEventThatWasTakenWithAnEarlierOneDoesNotComeTwice) {
  EXPECT_EQ(Send(), Delivery::kFast);
  Gate counted("event-counted");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(counted, *sender));
  EXPECT_EQ(guest_.Take(), 2u);
  counted.Open();
  sender->Join();
  EXPECT_EQ(guest_.Pending(), uint64_t{1} << kChannel);
  EXPECT_EQ(guest_.Take(), 0u);
}

//   sender                          guest
//   counts, finds the channel pending
//                                   takes the channel, with both events
//   turns nothing
TEST_F(EventPageRaceTest, AnEventOfAPendingChannelIsTakenWithIt) {
  EXPECT_EQ(Send(), Delivery::kFast);
  Gate looked("event-bit-looked");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(looked, *sender));
  EXPECT_EQ(guest_.Take(), 2u);
  looked.Open();
  sender->Join();
  EXPECT_EQ(guest_.Pending(), 0u);
}

//   sender                          others, and the guest
//   counts, finds the bit taken
//                                   a sender turns it; the guest takes both events; a sender
//                                   turns it again
//   must not turn it back
TEST_F(EventPageRaceTest, ASenderThatIsLateDoesNotTurnTheBitBack) {
  Gate looked("event-bit-looked");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(looked, *sender));
  EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_EQ(guest_.Take(), 2u);
  EXPECT_EQ(Send(), Delivery::kFast);
  looked.Open();
  sender->Join();
  EXPECT_EQ(guest_.Take(), 1u) << "an event is lost until the next one of the channel";
}

//   sender                          collection
//   before the check
//                                   takes the log
//   delivers and marks
//                                   the next one has the page
TEST_F(EventPageRaceTest, AnEventIsMarkedInTheSectionThatWritesIt) {
  LogWrites();
  Gate sending("event-sending");
  auto sender = Sender();
  ASSERT_TRUE(StopsAt(sending, *sender));
  static_cast<void>(DirtyNow());
  sending.Open();
  sender->Join();
  EXPECT_EQ(sent_as_.load(), Delivery::kFast);
  EXPECT_TRUE(DirtyNow());
}

TEST_F(EventPageRaceTest, EachWriteIsInTheDirtyLog) {
  LogWrites();
  EXPECT_TRUE(page_.WriteTime(reader_, 1000, 10));
  EXPECT_TRUE(DirtyNow());
  EXPECT_FALSE(DirtyNow());
  EXPECT_EQ(Send(), Delivery::kFast);
  EXPECT_TRUE(DirtyNow());
  MovePage(kPage);
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_TRUE(DirtyNow());
  EXPECT_EQ(page_.Close(reader_), Progress::kDone);
  EXPECT_TRUE(DirtyNow());
}

TEST_F(EventPageRaceTest, TheTimeHasAnEvenVersionAndIsNotWrittenWithoutATranslation) {
  abi::EventTime time;
  EXPECT_FALSE(guest_.ReadTime(&time));
  EXPECT_TRUE(page_.WriteTime(reader_, 1000, 10));
  ASSERT_TRUE(guest_.ReadTime(&time));
  EXPECT_EQ(time.version, 2u);
  EXPECT_EQ(time.ns, 1000u);
  EXPECT_EQ(time.steal_ns, 10u);
  EXPECT_EQ(time.check, abi::TimeCheck(time));
  MovePage(kPage);
  EXPECT_FALSE(page_.WriteTime(reader_, 2000, 20));
  EXPECT_EQ(wakes_, 1u);
  EXPECT_EQ(page_.Work(reader_), Progress::kDone);
  EXPECT_TRUE(page_.WriteTime(reader_, 3000, 30));
  ASSERT_TRUE(guest_.ReadTime(&time));
  EXPECT_EQ(time.version, 4u);
  EXPECT_EQ(time.ns, 3000u);
}

TEST_F(EventPageRaceTest, ATimeThatIsBeingWrittenIsNotRead) {
  EXPECT_TRUE(page_.WriteTime(reader_, 1000, 10));
  Gate writing("event-time-writing");
  Task writer("writer", [&] {
    Reader reader(mmu_.readers());
    EXPECT_TRUE(page_.WriteTime(reader, 2000, 20));
  });
  ASSERT_TRUE(StopsAt(writing, writer));
  abi::EventTime time;
  EXPECT_FALSE(guest_.ReadTime(&time));
  writing.Open();
  writer.Join();
  ASSERT_TRUE(guest_.ReadTime(&time));
  EXPECT_EQ(time.ns, 2000u);
}

TEST_F(EventPageRaceTest, AClosedPageHasTheNumberOfAllEvents) {
  EXPECT_EQ(Send(), Delivery::kFast);
  MovePage(kPage);
  EXPECT_EQ(Send(), Delivery::kHandedOver);
  EXPECT_EQ(page_.Send(reader_, 31), Delivery::kHandedOver);
  {
    DeleteSlot();
    EXPECT_EQ(page_.Close(reader_), Progress::kAway);
    CreateSlotAt(0);
  }
  EXPECT_FALSE(guest_.closed());
  EXPECT_EQ(page_.Close(reader_), Progress::kDone);
  ASSERT_TRUE(guest_.closed());
  EXPECT_EQ(guest_.page().totals[kChannel], 2u);
  EXPECT_EQ(guest_.page().totals[31], 1u);
  EXPECT_EQ(guest_.Wrong(), 0u);
  EXPECT_EQ(page_.sent(), 3u);
}

}  // namespace
}  // namespace underfoot::testing
