// Several pages at once over real userfaultfd: what comes in, what it contains, what is left alone.

#include "mmu/fault_around.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>

#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "tests/support/thread_state.h"

namespace underfoot::testing {
namespace {

class FaultAroundSideTest : public MemoryTest {
 protected:
  static constexpr uint64_t kWindow = 16;
  using Answers = std::array<PageInResult, kWindow>;

  Answers PageInSome() {
    Answers answers;
    side().source.PageInSome(side().Pages(0, kWindow), answers, nullptr);
    return answers;
  }
  void ExpectPresent(const Answers& answers, uint64_t i, Access granted = Access::kWrite) {
    ASSERT_EQ(answers[i].outcome, PageInOutcome::kPresent) << i;
    EXPECT_EQ(answers[i].pfn, side().EntryOf(i).pfn) << i;
    EXPECT_EQ(answers[i].granted, granted) << i;
  }
  FaultAroundResult Around(uint64_t i) {
    Reader reader(mmu().readers());
    return mmu().faults_around().HandleFault(
        reader, side().GfnAt(i), {side().GfnAt(0), side().GfnAt(kWindow)}, Access::kWrite);
  }
  // No monitor runs: the event is read and dropped here.
  void RemoveUnnoticed(uint64_t i, uint64_t pages) {
    PendingMadvise foreign(side().uffd, side().Pages(i, pages), MADV_DONTNEED);
    ASSERT_TRUE(foreign.pending());
    ASSERT_TRUE(ReadOneEvent(side().uffd));
  }
};

TEST_P(FaultAroundSideTest, PagesThatAreNowhereAreZeroes) {
  const Answers answers = PageInSome();
  for (uint64_t i = 0; i < kWindow; ++i) {
    ExpectPresent(answers, i);
    EXPECT_EQ(side().Load(i), 0u);
  }
  EXPECT_FALSE(side().EntryOf(kWindow).present);
}

// Present, with content that the mapping lost, and nowhere, in turns.
TEST_P(FaultAroundSideTest, WhatIsThereStaysAndWhatTheFileHasComesBack) {
  for (const uint64_t i : {1U, 2U, 6U, 9U, 15U}) {
    FaultIn(i);
    side().Store(i, i + 100);
  }
  RemoveUnnoticed(2, 1);
  RemoveUnnoticed(9, 1);
  if (memfd()) side().StoreInFile(12, 112);
  const Pfn before = side().EntryOf(6).pfn;
  const Answers answers = PageInSome();
  for (uint64_t i = 0; i < kWindow; ++i) {
    ExpectPresent(answers, i);
    const bool kept = i == 1 || i == 6 || i == 15;
    const bool in_file = memfd() && (i == 2 || i == 9 || i == 12);
    EXPECT_EQ(side().Load(i), kept || in_file ? i + 100 : 0) << i;
  }
  EXPECT_EQ(side().EntryOf(6).pfn, before);
}

TEST_P(FaultAroundSideTest, AWriteProtectionIsNotLifted) {
  FaultIn(3);
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(3), true), UffdOutcome::kDone);
  const Answers answers = PageInSome();
  ExpectPresent(answers, 3, Access::kRead);
  ExpectPresent(answers, 4, Access::kWrite);
  EXPECT_TRUE(side().EntryOf(3).uffd_wp);
}

// The page itself comes in without a translation, its neighbours not at all.
TEST_P(FaultAroundSideTest, WhileARemovalIsPendingThereIsNoFaultAround) {
  Create(absl::Hours(1));
  side().removals.Add(side().Pages(4, 4));
  const FaultAroundResult result = Around(5);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kRemovalPending);
  EXPECT_EQ(result.around, 0u);
  EXPECT_TRUE(side().EntryOf(5).present);
  for (uint64_t i = 0; i < kWindow; ++i) {
    EXPECT_FALSE(side().LeafOf(i).has_value());
    EXPECT_EQ(side().EntryOf(i).present, i == 5) << i;
  }
}

// Pages that are elsewhere come back to where they were: nothing may be there.
TEST_P(FaultAroundSideTest, NothingComesInAroundAPageThatIsAway) {
  {
    const PageInGate::Shut shut(side().source.gate(), side().Pages(7));
    for (const PageInResult& answer : PageInSome()) {
      EXPECT_NE(answer.outcome, PageInOutcome::kPresent);
    }
    for (uint64_t i = 0; i < kWindow; ++i) EXPECT_FALSE(side().EntryOf(i).present) << i;
  }
  ExpectPresent(PageInSome(), 7);
}

// Discards, by hooks and by others, while a thread brings in the same pages by sixteens: a leaf
// that is there names the frame that is there, and content is what was written last, or zero.
TEST_P(FaultAroundSideTest, NoLeafOutlivesItsPage) {
  StartMonitor();
  constexpr int kRounds = 2000;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> around{0};
  std::thread installer([&] {
    for (uint64_t n = 0; !stop.load(kAcquire); ++n) around.fetch_add(Around(n % kWindow).around);
  });
  uint64_t seen = 0;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t first = static_cast<uint64_t>(round) % 12;
    const HvaRange taken = side().Pages(first, 4);
    const InvalidationScope bracket(mmu().notifier(), {taken, InvalidationKind::kUnmap});
    for (uint64_t i = first; i < first + 4; ++i) EXPECT_FALSE(side().LeafOf(i).has_value()) << i;
    EXPECT_TRUE(side().hooks.Discard(taken).ok());
    for (uint64_t i = first; i < first + 4; ++i) EXPECT_FALSE(side().LeafOf(i).has_value()) << i;
  }
  EXPECT_TRUE(WaitUntil([&] { return around.load() > 0; }));
  // The last ones may all have been taken.
  EXPECT_TRUE(WaitUntil([&] { return side().LeafOf(0).has_value(); }));
  stop.store(true, kRelease);
  installer.join();
  for (uint64_t i = 0; i < kWindow; ++i) {
    const std::optional<Pte> leaf = side().LeafOf(i);
    if (!leaf.has_value()) continue;
    ++seen;
    EXPECT_TRUE(side().EntryOf(i).present) << i;
    EXPECT_EQ(leaf->pfn(), side().EntryOf(i).pfn) << i;
  }
  EXPECT_GT(seen, 0u);
}

TEST_P(FaultAroundSideTest, AnUnreadEventIsAnOutcomeAndLeavesNoClaim) {
  PendingMadvise foreign(side().uffd, side().Pages(100), MADV_DONTNEED);
  ASSERT_TRUE(foreign.pending());
  const FaultAroundResult result = Around(5);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kAgain);
  EXPECT_EQ(result.around, 0u);
  EXPECT_GE(side().source.eagain(), 1u);
  ASSERT_TRUE(ReadOneEvent(side().uffd));
  foreign.Join();
  EXPECT_EQ(Around(5).around, kWindow - 1);
}

TEST_P(FaultAroundSideTest, MoreThanOneCallCopiesComeInStepByStep) {
  constexpr uint64_t kMany = 100;
  const UffdProgress some = side().uffd.CopyZeroes(side().Pages(0, kMany));
  EXPECT_EQ(some.outcome, UffdOutcome::kDone);
  EXPECT_EQ(some.pages, 64u);
  FaultIn(70);
  const UffdProgress more = side().uffd.CopyZeroes(side().Pages(64, 10));
  EXPECT_EQ(more.pages, 6u);  // up to the page that is there
  EXPECT_EQ(side().uffd.CopyZeroes(side().Pages(70, 4)).outcome, UffdOutcome::kExists);
}

class MonitorAroundTest : public MemoryTest {
 protected:
  void SetUp() override { Create(absl::Milliseconds(100), 64); }
  UffdStats Stats() { return side().monitor.Stats(); }
};

// A page at a time: a thread that is faster than the monitor faults on pages that it is bringing
// in.
TEST_P(MonitorAroundTest, PagesTouchedInTurnFaultFewTimes) {
  constexpr uint64_t kPages = 256;
  StartMonitor();
  for (uint64_t i = 0; i < kPages; ++i) {
    ASSERT_TRUE(WaitUntil(OtherThreadsSleep)) << i;
    side().Store(i, i + 1);
  }
  // 0, 1, 4, then further and further ahead; the table of the slot's pages may end in between.
  EXPECT_LE(Stats().missing + Stats().minor, 20u);
}

TEST_P(MonitorAroundTest, PagesTouchedInTurnKeepWhatTheyHad) {
  constexpr uint64_t kPages = 256;
  if (memfd()) side().StoreInFile(40, 140);
  StartMonitor();
  for (uint64_t i = 0; i < kPages; ++i) {
    EXPECT_EQ(side().Load(i), memfd() && i == 40 ? 140u : 0u);
    side().Store(i, i + 1);
  }
  ASSERT_TRUE(WaitUntil([&] {
    const UffdStats stats = Stats();
    return stats.missing + stats.minor + stats.around >= kPages;
  }));
  for (uint64_t i = 0; i < kPages; ++i) {
    EXPECT_EQ(side().Load(i), i + 1);
    ASSERT_TRUE(WaitUntil([&] { return side().LeafOf(i).has_value(); })) << i;
    EXPECT_EQ(side().LeafOf(i)->pfn(), side().EntryOf(i).pfn) << i;
  }
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
}

TEST_P(MonitorAroundTest, ScatteredPagesBringInNoOther) {
  StartMonitor();
  for (uint64_t i = 0; i < 64; ++i) side().Store(i * 37 % 64 * 2, 1);
  EXPECT_EQ(Stats().missing, 64u);
  EXPECT_EQ(Stats().around, 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(MonitorAroundTest);
UNDERFOOT_FOR_BOTH_BACKINGS(FaultAroundSideTest);

}  // namespace
}  // namespace underfoot::testing
