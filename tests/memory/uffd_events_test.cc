// The half pairs: changes of guest RAM by others, as userfaultfd's events report them.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <iterator>
#include <optional>
#include <thread>

#include "mmu/pfn_cache.h"
#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "vmm/host/capability.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/uffd/uffd_monitor.h"

namespace underfoot::testing {
namespace {

class UffdEventsTest : public MemoryTest {
 protected:
  UffdStats Stats() { return side().monitor.Stats(); }

  bool Translates(Gfn gfn) {
    Reader reader(mmu().readers());
    return static_cast<bool>(mmu().Translate(reader, GpaOf(gfn), Access::kRead));
  }
};

TEST_P(UffdEventsTest, AForeignRemovalDropsLeavesAndCachesOfItsRange) {
  StartMonitor();
  Reader reader(mmu().readers());
  PfnCache cache(mmu(), "cache");
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(5), kPageSize, Access::kWrite).ok());
  FaultIn(6);
  FaultIn(9);
  std::thread([&] { EXPECT_EQ(ForeignMadvise(side().Pages(4, 4), MADV_DONTNEED), 0); }).join();
  ASSERT_TRUE(WaitUntil([&] { return mmu().Stats().notifier.ends == 1; }));
  EXPECT_FALSE(side().LeafOf(5).has_value());
  EXPECT_FALSE(side().LeafOf(6).has_value());
  EXPECT_TRUE(side().LeafOf(9).has_value());
  EXPECT_FALSE(static_cast<bool>(cache.Check(reader)));
  EXPECT_EQ(Stats().removes, 1u);
  cache.Deactivate();
}

// By a raw call over pages that are registered; with `fd`, which is RAM's own file or another.
bool RawMapOver(HvaRange range, int fd, uint64_t offset) {
  const int flags = MAP_FIXED | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
  return static_cast<uint64_t>(syscall(SYS_mmap, range.begin.value, range.size(),
                                       PROT_READ | PROT_WRITE, flags, fd, offset)) ==
         range.begin.value;
}

TEST_P(UffdEventsTest, AMappingThatARawCallHasPutInThePlaceOfRamIsWatchedAgain) {
  StartMonitor();
  FaultIn(5);
  const HvaRange range = side().Pages(4, 4);
  ASSERT_TRUE(RawMapOver(range, side().memory->fd(), side().GpaAt(4).value));
  side().Store(5, 77);
  // The call returns when its event has been read, before the handler registers the new mapping.
  Reader reader(mmu().readers());
  ASSERT_TRUE(WaitUntil([&] {
    return mmu().faults().FaultIn(reader, side().GfnAt(6), Access::kWrite).outcome ==
           FaultInOutcome::kMapped;
  }));
  const uint64_t removes = Stats().removes;
  ASSERT_EQ(ForeignMadvise(side().Pages(6), MADV_DONTNEED), 0);
  EXPECT_TRUE(WaitUntil([&] { return !side().LeafOf(6).has_value(); }, kPatience));
  EXPECT_EQ(Stats().removes, removes + 1);
  for (const NumberedEvent& event : side().events.Since(0, EventLog::kCapacity)) {
    EXPECT_NE(event.event.change, HostChange::kLostRecords);
  }
}

TEST_P(UffdEventsTest, ARangeThatCannotBeWatchedAgainIsReported) {
  StartMonitor();
  const HvaRange range = side().Pages(4, 4);
  ASSERT_EQ(syscall(SYS_munmap, range.begin.value, range.size()), 0);
  const auto reported = [&] {
    for (const NumberedEvent& event : side().events.Since(0, EventLog::kCapacity)) {
      if (event.event.change != HostChange::kLostRecords) continue;
      return event.event.source == EventSource::kUffd && event.event.range == range;
    }
    return false;
  };
  EXPECT_TRUE(WaitUntil(reported, kPatience));
}

#ifndef __SANITIZE_THREAD__  // which cannot do clone(CLONE_VM)
// In another process that has our memory and none of our hooks: nothing but the system call.
int DiscardAndExit(void* range) {
  const auto* const pages = static_cast<const iovec*>(range);
  return static_cast<int>(syscall(SYS_madvise, pages->iov_base, pages->iov_len, MADV_DONTNEED));
}

// The failed call had announced events that never came: they are not the foreigner's.
TEST_P(UffdEventsTest, AForeignRemovalAfterAHookedCallThatFailedIsForeign) {
  StartMonitor();
  ASSERT_FALSE(HookedMapOver(side().Pages(5), PROT_READ, MAP_SHARED, -1, 0).ok());
  FaultIn(5);
  ASSERT_EQ(ForeignMadvise(side().Pages(5), MADV_DONTNEED), 0);
  EXPECT_TRUE(WaitUntil([&] { return !side().LeafOf(5).has_value(); }, kPatience));
}

TEST_P(UffdEventsTest, ADiscardByAnotherProcessIsReportedAndNoWrongPageIsUsed) {
  StartMonitor();
  constexpr uint64_t kStackBytes = 64 * kPageSize;
  void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  ASSERT_NE(stack, MAP_FAILED);
  for (uint64_t round = 1; round <= 50; ++round) {
    side().Store(5, round);
    iovec pages{PointerOf(side().PageAt(4)), 4 * kPageSize};
    const pid_t child =
        clone(DiscardAndExit, static_cast<char*>(stack) + kStackBytes, CLONE_VM | SIGCHLD, &pages);
    ASSERT_GT(child, 0);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    ASSERT_EQ(side().Load(5), memfd() ? round : 0u);
    ASSERT_EQ(side().Load(6), 0u);
  }
  EXPECT_EQ(Stats().removes, 50u);
  const auto ends = [&] { return mmu().Stats().notifier.ends; };
  // Of several handlers one may meet a fault behind a removal that another one has read and not applied
  // yet: it takes the leaf away by a bracket of its own.
  EXPECT_TRUE(WaitUntil([&] { return ends() >= 50; }));
  if (UNDERFOOT_TEST_HANDLERS == 1) {
    EXPECT_EQ(ends(), 50u);
  }
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
  const std::optional<Pte> leaf = side().LeafOf(5);
  if (leaf.has_value()) {
    EXPECT_EQ(leaf->pfn(), side().EntryOf(5).pfn);
  }
  munmap(stack, kStackBytes);
}
#endif

TEST_P(UffdEventsTest, WhileARemovalIsPendingThePageIsUsedAndNoTranslationIsKept) {
  Create(absl::Hours(1));
  StartMonitor();
  FaultIn(5);
  side().Store(5, 1);
  // Two of them: no event reports which one took the page, so there is no evidence for either.
  ASSERT_EQ(ForeignMadvise(side().Pages(5), MADV_DONTNEED), 0);
  ASSERT_EQ(ForeignMadvise(side().Pages(4, 2), MADV_DONTNEED), 0);
  ASSERT_TRUE(WaitUntil([&] { return mmu().Stats().notifier.ends == 2; }));
  EXPECT_EQ(side().Load(5), memfd() ? 1u : 0u);
  side().Store(5, 2);
  EXPECT_EQ(side().Load(5), 2u);
  EXPECT_FALSE(side().LeafOf(5).has_value());
  // The monitor may be busy with the page for a moment longer.
  EXPECT_TRUE(WaitUntil(
      [&] { return side().Fault(5, Access::kRead).outcome == FaultOutcome::kRemovalPending; }));
  Reader reader(mmu().readers());
  PfnCache cache(mmu(), "cache");
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(5), kPageSize, Access::kRead).ok());
  EXPECT_FALSE(static_cast<bool>(cache.Check(reader)));
  EXPECT_EQ(cache.Refresh(reader), RefreshOutcome::kRemovalPending);
  cache.Deactivate();
}

// The page was translated when the removal was reported, and is gone at the next fault: the removal
// has passed it.
TEST_P(UffdEventsTest, APageThatTheRemovalHasPassedIsTranslatedAtOnce) {
  Create(absl::Hours(1));
  StartMonitor();
  FaultIn(5);
  ASSERT_EQ(ForeignMadvise(side().Pages(4, 4), MADV_DONTNEED), 0);
  ASSERT_TRUE(WaitUntil([&] { return mmu().Stats().notifier.ends == 1; }));
  static_cast<void>(side().Load(5));
  EXPECT_TRUE(WaitUntil([&] { return side().LeafOf(5).has_value(); }));
  EXPECT_EQ(side().removals.settled(), 1u);
  // Nothing was known of its neighbour.
  static_cast<void>(side().Load(6));
  EXPECT_TRUE(WaitUntil(
      [&] { return side().Fault(6, Access::kRead).outcome == FaultOutcome::kRemovalPending; }));
}

// The removal stands before its zap; a hook of ours takes the page meanwhile.
TEST_P(UffdEventsTest, APageThatOurOwnHookRemovedIsNoEvidenceOfARemoval) {
  Create(absl::Hours(1));
  StartMonitor();
  FaultIn(5);
  const uint64_t removal = side().removals.Add(side().Pages(5));
  side().removals.NotePresent(removal, {true});
  ASSERT_TRUE(side().hooks.Discard(side().Pages(5)).ok());
  ASSERT_FALSE(side().EntryOf(5).present);
  static_cast<void>(side().Load(5));
  EXPECT_TRUE(WaitUntil(
      [&] { return side().Fault(5, Access::kRead).outcome == FaultOutcome::kRemovalPending; }));
  EXPECT_EQ(side().removals.settled(), 0u);
}

TEST_P(UffdEventsTest, WhenARemovalIsOverTranslationsComeBack) {
  Create(absl::Milliseconds(20));
  StartMonitor();
  FaultIn(5);
  side().Store(5, 1);
  ASSERT_EQ(ForeignMadvise(side().Pages(5), MADV_DONTNEED), 0);
  ASSERT_TRUE(WaitUntil([&] { return mmu().Stats().notifier.ends == 1; }));
  EXPECT_TRUE(WaitUntil([&] {
    static_cast<void>(side().Fault(5, Access::kRead));
    return side().LeafOf(5).has_value();
  }));
  EXPECT_EQ(side().LeafOf(5)->pfn(), side().EntryOf(5).pfn);
}

// How many faults had been taken when an invalidation was reported.
class FaultsAtInvalidation final : public Subscriber {
 public:
  explicit FaultsAtInvalidation(MemorySide& side) : side_(side) {
    side_.mmu.notifier().Register(*this);
  }
  ~FaultsAtInvalidation() override { side_.mmu.notifier().Unregister(*this); }
  bool Invalidate(const Invalidation&) override {
    invalidations.Add();
    faults.Add(side_.monitor.Stats().missing);
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }

  Counter invalidations;
  Counter faults;

 private:
  MemorySide& side_;
};

// First the madvise and then the fault: the kernel hands them out the other way round.
TEST_P(UffdEventsTest, AFaultReadBeforeTheRemovalThatPrecededItComesAfterIt) {
  Create(absl::Hours(1));
  FaultIn(5);
  side().Store(5, 3);
  PendingMadvise foreign(side().uffd, side().Pages(4, 4), MADV_DONTNEED);
  ASSERT_TRUE(foreign.pending());
  std::thread toucher([&] { EXPECT_EQ(side().Load(6), 0u); });
  ASSERT_TRUE(WaitUntil([&] { return PendingFaults(side().uffd) == 1; }));
  FaultsAtInvalidation seen(side());
  StartMonitor();
  toucher.join();
  foreign.Join();
  // The handler that has read the removal may not have applied it yet.
  EXPECT_TRUE(WaitUntil([&] { return seen.invalidations.Get() == 1; }));
  side().monitor.WaitForBatch();
  if (UNDERFOOT_TEST_HANDLERS == 1) {  // several read one message each, and count their own
    EXPECT_EQ(seen.faults.Get(), 0u);
    EXPECT_EQ(Stats().reordered, 1u);
  }
  EXPECT_EQ(Stats().removes, 1u);
  EXPECT_FALSE(side().LeafOf(5).has_value());
  EXPECT_FALSE(side().LeafOf(6).has_value()) << "the removal settles";
}

TEST_P(UffdEventsTest, AChildsUserfaultfdIsClosed) {
  StartMonitor();
  side().Store(0, 5);
  // Guest RAM is not for children, so no fork of it is reported; a fork of this page is.
  ASSERT_EQ(madvise(PointerOf(side().PageAt(0)), kPageSize, MADV_DOFORK), 0);
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto before = descriptors();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  if (!HasCapability(CAP_SYS_PTRACE)) UNDERFOOT_SKIP("fork events need CAP_SYS_PTRACE");
  EXPECT_TRUE(WaitUntil([&] { return Stats().forks == 1; }));
  EXPECT_TRUE(WaitUntil([&] { return descriptors() == before; }));
  side().Store(0, 6);
  EXPECT_EQ(side().Load(0), 6u);
}

TEST_P(UffdEventsTest, AForeignUnmapDropsTheTranslationsOfItsRange) {
  StartMonitor();
  const HvaRange range = side().MapMore();
  ASSERT_EQ(munmap(PointerOf(range.begin), kPageSize), 0);
  side().monitor.WaitForBatch();  // the call returned when its event was read
  EXPECT_EQ(Stats().unmaps, 1u);
  EXPECT_FALSE(Translates(MemorySide::kMore));
  EXPECT_TRUE(Translates(MemorySide::kMore + 1));
  ASSERT_TRUE(hooked::Munmap({range.begin + kPageSize, range.end}).ok());
}

TEST_P(UffdEventsTest, AForeignMoveDropsTheTranslationsOfItsRange) {
  StartMonitor();
  const HvaRange range = side().MapMore();
  void* target = mmap(nullptr, range.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(target, MAP_FAILED);
  ASSERT_EQ(mremap(PointerOf(range.begin), range.size(), range.size(),
                   MREMAP_MAYMOVE | MREMAP_FIXED, target),
            target);
  side().monitor.WaitForBatch();
  EXPECT_EQ(Stats().remaps, 1u);
  EXPECT_FALSE(Translates(MemorySide::kMore));
  EXPECT_FALSE(Translates(MemorySide::kMore + 3));
  ASSERT_EQ(munmap(target, range.size()), 0);
}

UNDERFOOT_FOR_BOTH_BACKINGS(UffdEventsTest);

}  // namespace
}  // namespace underfoot::testing
