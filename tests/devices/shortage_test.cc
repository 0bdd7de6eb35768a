// What does not end a worker: no memory, a ring that is away for good, a file that does not answer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <optional>

#include "absl/time/time.h"
#include "tests/devices/device_test.h"
#include "tests/support/no_memory.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using virtio::QueueOutcome;

class ShortageTest : public DeviceTest {
 protected:
  const virtio::QueueCounters& counters() { return device().workers()[0]->counters(); }
  uint32_t RingSlot() { return side().memory->slots()[2].id; }
};

TEST_P(ShortageTest, ARequestForWhichThereIsNoMemoryIsMadeAgain) {
  Run();
  echo().RunOutOfMemory(5);
  EXPECT_TRUE(RequestWorks());
  EXPECT_EQ(counters().shortages.Get(), 5u);
  EXPECT_EQ(counters().requests.Get(), 1u);
}

TEST_P(ShortageTest, AWorkerThatGetsNoMemoryForLongNeedsAResetAndEndsNothingElse) {
  Run();
  echo().RunOutOfMemory(virtio::QueueWorker::kMostShortages);
  driver().SetChain(0, {Readable(kData, 1), Writable(kData + 1, 1)});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
  EXPECT_EQ(driver().UsedIndex(), 0u);
  Reset();
  driver_.emplace(side());
  Run();
  EXPECT_TRUE(RequestWorks());
}

// It waits for its ring; what it is ordered to do comes first.
TEST_P(ShortageTest, AWorkerWhoseRingIsAwayCanBeResetAndStopped) {
  const RamSlot slot = side().memory->slots()[2];
  Run();
  EXPECT_TRUE(RequestWorks());
  ASSERT_TRUE(mmu().DeleteMemslot(slot.id).ok());
  Notify();
  ASSERT_TRUE(WaitUntil([&] { return counters().away.Get() > 3; }));
  Reset();
  Run();
  Notify();
  const uint64_t away = counters().away.Get();
  ASSERT_TRUE(WaitUntil([&] { return counters().away.Get() > away; }));
  EXPECT_THAT(device().Stop(absl::Seconds(60)), ElementsAre());
  ASSERT_TRUE(mmu()
                  .CreateMemslot({.id = slot.id,
                                  .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)},
                                  .hva = slot.hva})
                  .ok());
}

// In the middle of a request: the answer is lost with the ring.
TEST_P(ShortageTest, AnAnswerWhoseRingIsAwayDoesNotHoldUpAReset) {
  const RamSlot slot = side().memory->slots()[2];
  Run();
  echo().SetGate(false);
  driver().SetChain(0, {Readable(kData, 1), Writable(kData + 1, 1)});
  driver().Offer(0);
  Notify();
  ASSERT_TRUE(WaitUntil([&] { return echo().serving() == 1; }));
  ASSERT_TRUE(mmu().DeleteMemslot(slot.id).ok());
  echo().SetGate(true);
  ASSERT_TRUE(WaitUntil([&] { return counters().away.Get() > 3; }));
  Reset();
  ASSERT_TRUE(mmu()
                  .CreateMemslot({.id = slot.id,
                                  .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)},
                                  .hva = slot.hva})
                  .ok());
  driver_.emplace(side());
  Run();
  EXPECT_TRUE(RequestWorks());
}

// The other queue goes on, and the owner is not held up.
TEST_P(ShortageTest, AWorkerThatDoesNotReturnIsNamedAndDoesNotHoldUpTheOthers) {
  Run();
  echo().SetGate(false);
  driver().SetChain(0, {Readable(kData, 1), Writable(kData + 1, 1)});
  driver().Offer(0);
  Notify();
  ASSERT_TRUE(WaitUntil([&] { return echo().serving() == 1; }));
  EXPECT_TRUE(StopsAllBut("echo-0"));
  echo().SetGate(true);
  EXPECT_THAT(device().Stop(), ElementsAre());
  EXPECT_THAT(device().Stop(), ElementsAre());
}

UNDERFOOT_FOR_BOTH_BACKINGS(ShortageTest);

class QueueShortageTest : public QueueTest {
 protected:
  // Makes `step` with ever more memory until it has enough. Returns how often it had not.
  template <class Step>
  uint64_t RunOutEverywhere(const Step& step) {
    for (uint64_t n = 0;; ++n) {
      // Dropped caches have to be looked up again, for which tables may be needed.
      { InvalidationScope bracket(mmu().notifier(), {side().memory->hvas()}); }
      try {
        const NoMemory none(n);
        EXPECT_EQ(step(), QueueOutcome::kDone);
        return n;
      } catch (const std::bad_alloc&) {
      }
    }
  }
};

TEST_P(QueueShortageTest, AStepForWhichThereIsNoMemoryHasChangedNothing) {
  Start(kAllFeatures);
  SetTable(kData, {Writable(kData + 2, 20)});
  driver().SetChain(0, {Readable(kData + 3, 5), Table(kData, 1)});
  driver().Offer(0);
  EXPECT_GT(RunOutEverywhere([&] { return Pop(); }), 0u);
  EXPECT_EQ(queue().next_available(), 1u);
  EXPECT_EQ(chain_.readable_bytes, 5u);
  EXPECT_EQ(chain_.writable_bytes, 20u);
  EXPECT_GT(RunOutEverywhere([&] { return Publish(0, 20); }), 0u);
  EXPECT_EQ(driver().UsedIndex(), 1u);
  EXPECT_EQ(queue().next_used(), 1u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(QueueShortageTest);

}  // namespace
}  // namespace underfoot::testing
