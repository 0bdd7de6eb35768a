// The net below the hooks: faults become leaves, and what is lost is found and repaired.

#include "vmm/sources/uffd/uffd_monitor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "mmu/pfn_cache.h"
#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/uffd/retry_time.h"

namespace underfoot::testing {
namespace {

// A frame that is not used again meanwhile: a pipe has it.
class KeptFrame {
 public:
  explicit KeptFrame(Hva page) {
    EXPECT_EQ(pipe2(ends_.data(), O_CLOEXEC), 0);
    const iovec whole{PointerOf(page), kPageSize};
    EXPECT_EQ(vmsplice(ends_[1], &whole, 1, 0), static_cast<ssize_t>(kPageSize));
  }
  ~KeptFrame() {
    for (const int end : ends_) close(end);
  }
  KeptFrame(const KeptFrame&) = delete;
  KeptFrame& operator=(const KeptFrame&) = delete;

 private:
  std::array<int, 2> ends_{-1, -1};
};

class UffdMonitorTest : public MemoryTest {
 protected:
  UffdStats Stats() { return side().monitor.Stats(); }

  // The page goes, its event is taken for one of our own, and nothing is invalidated.
  void LosePage(uint64_t i) {
    side().monitor.WaitForBatch();  // earlier events have been counted
    const uint64_t removes = Stats().removes;
    side().expected.Expect(side().Pages(i));
    ASSERT_EQ(ForeignMadvise(side().Pages(i), MADV_DONTNEED), 0);
    ASSERT_TRUE(WaitUntil([&] { return Stats().removes == removes + 1; }));
    ASSERT_FALSE(side().EntryOf(i).present);
    ASSERT_TRUE(side().LeafOf(i).has_value());
  }

  // The page goes while no monitor runs, and it is not reported.
  void TakePageUnreported(uint64_t i) {
    if (memfd()) {
      const auto offset = static_cast<off_t>(side().GpaAt(i).value);
      ASSERT_EQ(fallocate(side().memory->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                          kPageSize),
                0);
      return;
    }
    PendingMadvise foreign(side().uffd, side().Pages(i), MADV_DONTNEED);
    ASSERT_TRUE(foreign.pending());
    ASSERT_TRUE(ReadOneEvent(side().uffd));
  }

  // As by another thread that wakes no waiter.
  void CopyZeroesWithoutWake(uint64_t i) {
    static std::array<std::byte, kPageSize> zeroes;
    uffdio_copy copy{};
    copy.dst = side().PageAt(i).value;
    copy.src = HvaOf(zeroes.data()).value;
    copy.len = kPageSize;
    copy.mode = UFFDIO_COPY_MODE_DONTWAKE;
    ASSERT_EQ(ioctl(side().uffd.fd(), UFFDIO_COPY, &copy), 0);
  }

  // A leaf that says what the kernel says.
  // The thread that faulted may run before its leaf is there.
  void ExpectTrueLeaf(uint64_t i, bool writable = true) {
    ASSERT_TRUE(WaitUntil([&] { return side().LeafOf(i).has_value(); })) << "page " << i;
    const std::optional<Pte> leaf = side().LeafOf(i);
    const PagemapEntry entry = side().EntryOf(i);
    EXPECT_TRUE(entry.present);
    EXPECT_EQ(leaf->pfn(), entry.pfn);
    EXPECT_EQ(leaf->writable(), writable);
  }
};

// The code that brings a page in wakes the threads that wait for it. Here another thread did it,
// and woke none.
TEST_P(UffdMonitorTest, AFaultOnAPageThatHasComeInMeanwhileIsWoken) {
  std::atomic<bool> read{false};
  std::thread guest([&] {
    EXPECT_EQ(side().Load(3), 0u);
    read.store(true, kRelease);
  });
  ASSERT_TRUE(WaitUntil([&] { return PendingFaults(side().uffd) == 1; }));
  CopyZeroesWithoutWake(3);
  EXPECT_EQ(PendingFaults(side().uffd), 1u);
  StartMonitor();
  EXPECT_TRUE(WaitUntil([&] { return read.load(kAcquire); }));
  side().uffd.Wake(side().Pages(3));
  guest.join();
}

TEST_P(UffdMonitorTest, AFaultOfAnyThreadBecomesALeaf) {
  StartMonitor();
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kPagesEach = 16;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kPagesEach; ++i) {
        const uint64_t page = t * kPagesEach + i;
        if (page % 2 == 0) {
          side().Store(page, page + 1);
        } else {
          EXPECT_EQ(side().Load(page), 0u);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t page = 0; page < kThreads * kPagesEach; ++page) {
    ExpectTrueLeaf(page);
    EXPECT_EQ(side().Load(page), page % 2 == 0 ? page + 1 : 0);
    EXPECT_EQ(side().LeafOf(page)->dirty(), page % 2 == 0);
  }
  EXPECT_EQ(Stats().missing, kThreads * kPagesEach);
  EXPECT_TRUE(WaitUntil([&] { return Stats().fault_us.count == kThreads * kPagesEach; }));
}

TEST_P(UffdMonitorTest, ThreadsThatMeetAtOnePageAllGetOn) {
  StartMonitor();
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      for (uint64_t page = 0; page < 32; ++page) EXPECT_EQ(side().Load(page), 0u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t page = 0; page < 32; ++page) ExpectTrueLeaf(page);
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
}

TEST_P(UffdMonitorTest, EachKindOfFaultIsCountedAsWhatItIs) {
  StartMonitor();
  side().Store(0, 1);
  EXPECT_EQ(Stats().missing, 1u);
  ExpectTrueLeaf(0);
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(0)).ok());
  EXPECT_EQ(side().Load(0), 1u);
  EXPECT_EQ(Stats().wp, 0u);
  side().Store(0, 2);
  EXPECT_EQ(Stats().wp, 1u);
  if (memfd()) {
    side().StoreInFile(1, 5);
    EXPECT_EQ(side().Load(1), 5u);
    EXPECT_EQ(Stats().minor, 1u);
    ExpectTrueLeaf(1);
  }
  EXPECT_EQ(Stats().missing, 1u);
}

TEST_P(UffdMonitorTest, AFaultInsideABracketWaitsForItsEnd) {
  StartMonitor();
  BracketToken token = mmu().notifier().Begin({side().Pages(0, 4)});
  std::thread toucher([&] { side().Store(1, 7); });
  EXPECT_TRUE(WaitUntil([&] { return Stats().missing == 1; }));
  // A page outside of the bracket does not wait.
  side().Store(8, 1);
  ExpectTrueLeaf(8);
  EXPECT_FALSE(side().EntryOf(1).present);
  EXPECT_FALSE(side().LeafOf(1).has_value());
  mmu().notifier().End(token);
  toucher.join();
  EXPECT_EQ(side().Load(1), 7u);
  ExpectTrueLeaf(1);
}

TEST_P(UffdMonitorTest, ALostCopyIsInvalidatedAndCopiedAgain) {
  StartMonitor();
  FaultIn(0);
  side().Store(0, 7);
  LosePage(0);
  EXPECT_EQ(side().Load(0), memfd() ? 7u : 0u);
  EXPECT_EQ(Stats().lost_copies_repaired, 1u);
  ExpectTrueLeaf(0);
  EXPECT_EQ(mmu().Stats().notifier.begins, 1u);
}

// Whether a page is there when its invalidation is reported.
class PresenceAtInvalidation final : public Subscriber {
 public:
  PresenceAtInvalidation(MemorySide& side, uint64_t page) : side_(side), page_(page) {
    side_.mmu.notifier().Register(*this);
  }
  ~PresenceAtInvalidation() override { side_.mmu.notifier().Unregister(*this); }
  bool Invalidate(const Invalidation& invalidation) override {
    if (!invalidation.range.Overlaps(side_.Pages(page_))) return false;
    (side_.EntryOf(page_).present ? present : absent).Add();
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }

  Counter present;
  Counter absent;

 private:
  MemorySide& side_;
  const uint64_t page_;
};

TEST_P(UffdMonitorTest, ALostCopyIsInvalidatedBeforeItsPageComesBack) {
  StartMonitor();
  FaultIn(0);
  side().Store(0, 7);
  LosePage(0);
  PresenceAtInvalidation presence(side(), 0);
  EXPECT_EQ(side().Load(0), memfd() ? 7u : 0u);
  EXPECT_EQ(presence.absent.Get(), 1u);
  EXPECT_EQ(presence.present.Get(), 0u);
}

// Between the fault and the look at it another thread brought in another frame.
TEST_P(UffdMonitorTest, APageThatCameBackInAnotherFrameThanThatOfItsLeafWasLost) {
  if (!side().pagemap.real_pfns()) UNDERFOOT_SKIP("frame numbers need CAP_SYS_ADMIN");
  FaultIn(3);
  const Pfn frame = side().LeafOf(3)->pfn();
  const KeptFrame kept(side().PageAt(3));
  TakePageUnreported(3);
  ASSERT_FALSE(side().EntryOf(3).present);
  std::thread guest([&] { EXPECT_EQ(side().Load(3), 0u); });
  ASSERT_TRUE(WaitUntil([&] { return PendingFaults(side().uffd) == 1; }));
  CopyZeroesWithoutWake(3);
  ASSERT_NE(side().EntryOf(3).pfn, frame);
  StartMonitor();
  guest.join();
  EXPECT_TRUE(WaitUntil([&] { return Stats().fault_us.count == 1; }));
  EXPECT_EQ(Stats().lost_copies_repaired, 1u);
  EXPECT_FALSE(side().LeafOf(3).has_value());
}

TEST_P(UffdMonitorTest, APageThatMadvFreeLeftIsNoLostCopyWhenItIsGone) {
  if (memfd()) return;  // nothing is freed lazily
  StartMonitor();
  FaultIn(0);
  side().Store(0, 7);
  ASSERT_TRUE(hooked::Madvise(side().Pages(0), MADV_FREE).ok());
  FaultIn(0);
  LosePage(0);
  EXPECT_EQ(side().Load(0), 0u);
  EXPECT_EQ(Stats().freed_lazily, 1u);
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
  ExpectTrueLeaf(0);
}

TEST_P(UffdMonitorTest, AReaderThatLostItsPageInsideASectionGetsItBackAndTheLeafGoes) {
  StartMonitor();
  FaultIn(0);
  side().Store(0, 7);
  Reader reader(mmu().readers());
  {
    const TranslatedPage page = mmu().Translate(reader, side().GpaAt(0), Access::kRead);
    ASSERT_TRUE(static_cast<bool>(page));
    LosePage(0);
    EXPECT_EQ(side().Load(0), memfd() ? 7u : 0u);
    EXPECT_FALSE(side().LeafOf(0).has_value());
  }
  EXPECT_EQ(Stats().lost_copies_repaired, 1u);
  FaultIn(0);
  ExpectTrueLeaf(0);
}

// The section waits for its page, the Begin for the section; the monitor waits for neither.
TEST_P(UffdMonitorTest, AReaderThatFaultsWhileABeginWaitsForItIsNoDeadlock) {
  StartMonitor();
  FaultIn(0);
  side().Store(0, 7);
  std::thread hook;
  {
    Reader reader(mmu().readers());
    const TranslatedPage page = mmu().Translate(reader, side().GpaAt(0), Access::kRead);
    ASSERT_TRUE(static_cast<bool>(page));
    LosePage(0);
    hook = std::thread([&] {
      const absl::Status status = hooked::Madvise(side().Pages(0, 4), MADV_DONTNEED);
      EXPECT_TRUE(status.ok()) << status;
    });
    ASSERT_TRUE(WaitUntil([&] { return mmu().in_flight().count() == 1; }));
    EXPECT_EQ(side().Load(0), memfd() ? 7u : 0u);
  }
  hook.join();
  EXPECT_FALSE(side().EntryOf(0).present);
}

// Sixteen faults fill the first read, so the event behind them stays unread while they are served.
TEST_P(UffdMonitorTest, FaultsThatMeetAnUnreadEventAreTriedAgainBehindIt) {
  constexpr uint64_t kFaults = 16;
  PendingMadvise foreign(side().uffd, side().Pages(100), MADV_DONTNEED);
  ASSERT_TRUE(foreign.pending());
  std::vector<std::thread> touchers;
  Counter stored;
  for (uint64_t i = 0; i < kFaults; ++i) {
    touchers.emplace_back([&, i] {
      side().Store(i, i + 1);
      stored.Add();
    });
  }
  ASSERT_TRUE(WaitUntil([&] { return PendingFaults(side().uffd) == kFaults; }));
  StartMonitor();
  EXPECT_TRUE(WaitUntil([&] { return stored.Get() == kFaults; }, kPatience));
  side().uffd.Wake(side().Pages(0, kFaults));
  for (std::thread& toucher : touchers) toucher.join();
  foreign.Join();
  EXPECT_GE(Stats().eagain, kFaults);
  EXPECT_EQ(Stats().missing, kFaults);
  EXPECT_EQ(Stats().reordered, 0u);
  for (uint64_t i = 0; i < kFaults; ++i) {
    EXPECT_EQ(side().Load(i), i + 1);
    ExpectTrueLeaf(i);
  }
}

// Each attempt at the fault makes the tables for its claim, and gives them up again: that is
// counted.
TEST_P(UffdMonitorTest, MessagesDoNotChangeTheTimeOfADeferredFault) {
  constexpr uint64_t kMessages = 500;
  constexpr uint64_t kTablesOfAnAttempt = 3;
  constexpr uint64_t kAttemptsBeforeTheLongestWait = 6;
  StartMonitor();
  BracketToken token = mmu().notifier().Begin({side().Pages(0)});
  std::thread toucher([&] { side().Store(0, 7); });
  ASSERT_TRUE(WaitUntil([&] { return Stats().missing == 1; }));
  const uint64_t before = mmu().Stats().rcu.retired;
  const int64_t start_ns = MonotonicNs();
  for (uint64_t i = 0; i < kMessages; ++i) {
    ASSERT_EQ(ForeignMadvise(side().Pages(2000), MADV_DONTNEED), 0);
  }
  side().monitor.WaitForBatch();
  const uint64_t tables = mmu().Stats().rcu.retired - before;
  const auto passed_ns = static_cast<uint64_t>(MonotonicNs() - start_ns);
  mmu().notifier().End(token);
  toucher.join();
  EXPECT_GT(mmu().Stats().rcu.retired, 0u);
  EXPECT_LE(tables, kTablesOfAnAttempt *
                        (passed_ns / RetryTime::kLongestNs + kAttemptsBeforeTheLongestWait + 1));
  EXPECT_EQ(side().Load(0), 7u);
}

TEST_P(UffdMonitorTest, AStopLeavesADeferredFaultToTheCloseOfTheDescriptor) {
  StartMonitor();
  BracketToken token = mmu().notifier().Begin({side().Pages(0)});
  std::thread toucher([&] { side().Store(0, 7); });
  ASSERT_TRUE(WaitUntil([&] { return Stats().missing == 1; }));
  side().monitor.Stop();
  EXPECT_FALSE(side().EntryOf(0).present);
  mmu().notifier().End(token);
  { const Userfaultfd gone = std::move(side().uffd); }
  toucher.join();
  EXPECT_EQ(side().Load(0), 7u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(UffdMonitorTest);

}  // namespace
}  // namespace underfoot::testing
