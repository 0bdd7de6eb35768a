#include "vmm/machine/census.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CensusTest : public ::testing::Test {
 protected:
  // With the first thread comes one of a sanitizer's own, which stays.
  static void SetUpTestSuite() {
    std::thread([] {}).join();
  }
};

TEST_F(CensusTest, AThreadThatWasJoinedIsNotLeftBehind) {
  for (int i = 0; i < 1000; ++i) {
    const Census before = Census::Take();
    std::thread([] {}).join();
    ASSERT_THAT(LeftBehind(before), IsEmpty());
  }
}

TEST_F(CensusTest, ALeakIsCountedByItsKind) {
  const Census before = Census::Take();
  absl::Notification end;
  std::thread thread([&] { end.WaitForNotification(); });
  {
    const UniqueFd first(eventfd(0, EFD_CLOEXEC));
    const UniqueFd second(eventfd(0, EFD_CLOEXEC));
    EXPECT_THAT(LeftBehind(before, absl::Milliseconds(5)),
                ElementsAre("2 file descriptors were left open", "1 threads were left running"));
  }
  end.Notify();
  thread.join();
  EXPECT_THAT(LeftBehind(before), IsEmpty());
}

TEST(LeftInMmuTest, AWorkerThatHangsMayHaveItsCachesAndOneBracket) {
  MmuStats stats;
  EXPECT_EQ(LeftInMmu(stats, 0), "");
  stats.notifier.in_flight = 1;
  EXPECT_EQ(LeftInMmu(stats, 0),
            "left over at the end: 1 brackets, 0 pfn caches, 0 retired tables, 0 stray ends");
  EXPECT_EQ(LeftInMmu(stats, 1), "");
  stats.notifier.in_flight = 2;
  EXPECT_NE(LeftInMmu(stats, 1), "");
  stats.pfn_caches.count = 6;
  EXPECT_EQ(LeftInMmu(stats, 2), "");
  stats.pfn_caches.count = 7;
  EXPECT_NE(LeftInMmu(stats, 2), "");
  stats = {};
  stats.rcu.pending_tables = 1;
  EXPECT_NE(LeftInMmu(stats, 1), "");
  stats = {};
  stats.notifier.stray_ends = 1;
  EXPECT_NE(LeftInMmu(stats, 1), "");
}

}  // namespace
}  // namespace underfoot::testing
