#include "vmm/evidence/event_reads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

TEST(EventReadsTest, AReadOfAnyReaderIsSeenUntilItsEventIsApplied) {
  EventReads reads;
  EXPECT_TRUE(reads.None());
  for (unsigned reader = 0; reader < kMostEventReaders; ++reader) {
    EventReads::Scope reading(reads, reader);
    EXPECT_FALSE(reads.None()) << reader;
    reading.End();
    EXPECT_TRUE(reads.None()) << reader;
  }
  EXPECT_TRUE(reads.None());
}

TEST(EventReadsTest, OneOfSeveralReadersIsEnough) {
  EventReads reads;
  EventReads::Scope last(reads, kMostEventReaders - 1);
  {
    const EventReads::Scope first(reads, 0);
    EXPECT_FALSE(reads.None());
  }
  EXPECT_FALSE(reads.None());
  last.End();
  EXPECT_TRUE(reads.None());
}

TEST(EventReadsTest, AWaitIsForTheReadOfAnyReader) {
  EventReads reads;
  EventReads::Scope reading(reads, kMostEventReaders - 1);
  std::atomic<bool> applied{false};
  std::atomic<bool> over{false};
  std::atomic<bool> applied_by_then{false};
  std::thread waiter([&] {
    reads.Wait();
    applied_by_then = applied.load();
    over = true;
  });
  // A wait that wrongly returns gets this time to do so.
  static_cast<void>(WaitUntil([&] { return over.load(); }, std::chrono::milliseconds(100)));
  applied = true;
  reading.End();
  waiter.join();
  EXPECT_TRUE(applied_by_then);
}

// A reader that reads again and again does not keep a waiter waiting: its word changes.
TEST(EventReadsTest, AWaitEndsWithTheReadThatWasOpenAndNotWithLaterOnes) {
  EventReads reads;
  auto reading = std::make_unique<EventReads::Scope>(reads, 1);
  std::atomic<bool> over{false};
  std::thread waiter([&] {
    reads.Wait();
    over = true;
  });
  EXPECT_TRUE(WaitUntil([&] {
    reading->End();
    reading = std::make_unique<EventReads::Scope>(reads, 1);
    return over.load();
  }));
  EXPECT_FALSE(reads.None());
  reading.reset();
  waiter.join();
}

}  // namespace
}  // namespace underfoot::testing
