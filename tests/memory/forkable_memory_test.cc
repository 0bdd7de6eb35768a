// fork() of another thread waits while guest RAM may be given to children: it holds the locks of
// malloc until its event has been read, and the reader of userfaultfd may be waiting for one of
// them.

#include "vmm/ram/forkable_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include "tests/memory/memory_test.h"
#include "tests/support/thread_state.h"
#include "vmm/churn/forking.h"

namespace underfoot::testing {
namespace {

class ForkableMemoryTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ != nullptr) StartMonitor();
  }

  // With glibc's locks, unlike _Fork().
  static bool Fork() {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    return child > 0 && waitpid(child, nullptr, 0) == child;
  }
};

TEST_P(ForkableMemoryTest, AForkOfAnotherThreadWaitsForItsEndAndHasNoEvent) {
  std::optional<ForkableMemory> forkable(std::in_place);
  ASSERT_EQ(madvise(PointerOf(side().PageAt(0)), kPageSize, MADV_DOFORK), 0);
  std::atomic<pid_t> id{0};
  std::atomic<bool> forked{false};
  std::thread forker([&] {
    id = gettid();
    forked = Fork();
  });
  EXPECT_TRUE(WaitUntil([&] { return forked || (id != 0 && ThreadSleeps(id)); }));
  EXPECT_FALSE(forked);
  ASSERT_EQ(madvise(PointerOf(side().PageAt(0)), kPageSize, MADV_DONTFORK), 0);
  forkable.reset();
  forker.join();
  EXPECT_TRUE(forked);
  side().monitor.WaitForBatch();
  EXPECT_EQ(side().monitor.Stats().forks, 0u);
}

// The monitor allocates a table for each of these faults, and fork() holds the locks of malloc.
TEST_P(ForkableMemoryTest, ForksOfTheProcessAndOfChurnGetAlong) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> forks{0};
  std::thread forker([&] {
    while (!stop) {
      EXPECT_TRUE(Fork());
      ++forks;
    }
  });
  for (uint64_t round = 0; round < 50 || forks < 20; ++round) {
    const auto outcome = ForkWith(side().Pages(0, 4), absl::ZeroDuration());
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    side().Store(round % 1024 + 8, round);
  }
  stop = true;
  forker.join();
}

UNDERFOOT_FOR_BOTH_BACKINGS(ForkableMemoryTest);

}  // namespace
}  // namespace underfoot::testing
