#include "vmm/ram/userfaultfd.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"

namespace underfoot::testing {
namespace {

using UserfaultfdTest = MemoryTest;

TEST_P(UserfaultfdTest, ACopyMakesAWritablePageOfZeroesOnce) {
  EXPECT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
  EXPECT_EQ(side().Load(0), 0u);
  side().Store(0, 7);
  EXPECT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kExists);
  EXPECT_EQ(side().Load(0), 7u);
}

TEST_P(UserfaultfdTest, AContinueMapsWhatTheFileHasAndNothingElse) {
  if (!memfd()) {
    EXPECT_EQ(side().uffd.Continue(side().PageAt(0)), UffdOutcome::kGone);
    return;
  }
  EXPECT_EQ(side().uffd.Continue(side().PageAt(0)), UffdOutcome::kNoPage);
  side().StoreInFile(0, 9);
  EXPECT_EQ(side().uffd.Continue(side().PageAt(0)), UffdOutcome::kDone);
  EXPECT_EQ(side().Load(0), 9u);
  EXPECT_EQ(side().uffd.Continue(side().PageAt(0)), UffdOutcome::kExists);
}

TEST_P(UserfaultfdTest, MemoryThatIsNotRegisteredIsGone) {
  void* page = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  EXPECT_EQ(side().uffd.CopyZeroes(HvaOf(page)), UffdOutcome::kGone);
  EXPECT_EQ(side().uffd.WriteProtect(PageRangeOf(HvaOf(page)), true), UffdOutcome::kGone);
  ASSERT_EQ(munmap(page, kPageSize), 0);
  EXPECT_EQ(side().uffd.CopyZeroes(HvaOf(page)), UffdOutcome::kGone);
}

TEST_P(UserfaultfdTest, WhileAnEventIsUnreadNothingIsMapped) {
  PendingMadvise foreign(side().uffd, side().Pages(8), MADV_DONTNEED);
  ASSERT_TRUE(foreign.pending());
  EXPECT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kAgain);
  EXPECT_EQ(side().uffd.WriteProtect(side().Pages(0), true), UffdOutcome::kAgain);
  ASSERT_TRUE(ReadOneEvent(side().uffd));
  foreign.Join();
  EXPECT_EQ(side().uffd.CopyZeroes(side().PageAt(0)), UffdOutcome::kDone);
}

TEST_P(UserfaultfdTest, AReadOfAnEmptyQueueIsZeroMessages) {
  uffd_msg message;
  const absl::StatusOr<size_t> n = side().uffd.Read({&message, 1});
  ASSERT_TRUE(n.ok()) << n.status();
  EXPECT_EQ(*n, 0u);
}

TEST_P(UserfaultfdTest, ACloseWakesTheWaitingThreads) {
  std::thread toucher([&] { side().Store(0, 5); });
  ASSERT_TRUE(WaitUntil([&] { return PendingFaults(side().uffd) == 1; }));
  { const Userfaultfd gone = std::move(side().uffd); }
  toucher.join();
  EXPECT_EQ(side().Load(0), 5u);
}

TEST_P(UserfaultfdTest, ARangeThatCannotBeRegisteredIsNamed) {
  const absl::Status status = side().uffd.Register({{0x1000}, {0x3000}}, GetParam());
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("[0x1000, 0x3000)"), std::string::npos) << status;
}

UNDERFOOT_FOR_BOTH_BACKINGS(UserfaultfdTest);

}  // namespace
}  // namespace underfoot::testing
