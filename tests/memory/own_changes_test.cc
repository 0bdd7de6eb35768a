// What this process announced, by thread, range and time.

#include "vmm/evidence/own_changes.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/support/wait_until.h"
#include "vmm/evidence/host_event.h"

namespace underfoot::testing {
namespace {

constexpr HvaRange Pages(uint64_t first, uint64_t count = 1) {
  return PageRangeOf(Hva{(1000 + first) << kPageShift}, count);
}
constexpr int64_t kLong = 3'600'000'000'000;  // an hour

TEST(OwnChangesTest, AChangeIsOursBetweenAnnouncementAndDone) {
  OwnChanges changes;
  const int64_t before = MonotonicNs();
  changes.Announce(Pages(0, 4));
  const int64_t inside = MonotonicNs();
  EXPECT_TRUE(changes.Made(gettid(), Pages(1), inside));
  EXPECT_TRUE(changes.Made(gettid(), Pages(0, 4), inside + kLong)) << "still under way";
  EXPECT_FALSE(changes.Made(gettid(), Pages(1), inside, false)) << "ended by another thread";
  changes.Done(Pages(0, 4));
  EXPECT_TRUE(changes.Made(gettid(), Pages(1), inside));
  EXPECT_FALSE(changes.Made(gettid(), Pages(1), before - kLong));
  EXPECT_FALSE(changes.Made(gettid(), Pages(1), inside + kLong));
  EXPECT_FALSE(changes.Made(gettid() + 1, Pages(1), inside));
  EXPECT_FALSE(changes.Made(gettid(), Pages(3, 2), inside)) << "beyond its end";
}

TEST(OwnChangesTest, AnOuterChangeCoversWhatFollowsAnInnerOne) {
  OwnChanges changes;
  changes.Announce(Pages(0, 9));
  changes.Announce(Pages(1));
  changes.Done(Pages(1));
  while (MonotonicNs() <= 1000) {
  }
  const int64_t after_inner = MonotonicNs() + 10'000;
  EXPECT_TRUE(changes.Made(gettid(), Pages(5), after_inner));
  EXPECT_TRUE(changes.Made(gettid(), Pages(1), after_inner));
  changes.Done(Pages(0, 9));
  EXPECT_FALSE(changes.Made(gettid(), Pages(5), MonotonicNs() + kLong));
}

TEST(OwnChangesTest, OnlyTheLatestAreRemembered) {
  OwnChanges changes;
  changes.Announce(Pages(0));
  const int64_t first = MonotonicNs();
  changes.Done(Pages(0));
  for (uint64_t i = 0; i < OwnChanges::kKept; ++i) {
    changes.Announce(Pages(7));
    changes.Done(Pages(7));
  }
  EXPECT_FALSE(changes.Made(gettid(), Pages(0), first));
}

TEST(OwnChangesTest, ADoneWithoutAnAnnouncementHasNoEffect) {
  OwnChanges changes;
  changes.Done(Pages(0));
  EXPECT_FALSE(changes.Made(gettid(), Pages(0), MonotonicNs()));
}

// A reader never puts two changes together: each announced range begins and ends at the same page.
TEST(OwnChangesTest, AReaderBesideTheWriterSeesWholeChanges) {
  OwnChanges changes;
  std::atomic<int32_t> tid{0};
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    tid = gettid();
    for (uint64_t i = 0; !stop; ++i) {
      const HvaRange range = Pages(2 * (i % 1000));
      changes.Announce(range);
      changes.Done(range);
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return tid != 0; }));
  for (int i = 0; i < 2000; ++i) {
    EXPECT_FALSE(changes.Made(tid, Pages(static_cast<uint64_t>(2 * (i % 999)), 3), MonotonicNs()));
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace underfoot::testing
