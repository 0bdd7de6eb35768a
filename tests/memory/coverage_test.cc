#include "vmm/audit/coverage.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace underfoot {
namespace {

constexpr HvaRange kPage = {Hva{0x1000}, Hva{0x2000}};
constexpr HvaRange kBoth = {Hva{0x1000}, Hva{0x3000}};
constexpr HvaRange kElsewhere = {Hva{0x8000}, Hva{0x9000}};

class CoverageTest : public ::testing::Test {
 protected:
  CoverageTest() {
    coverage_.SetSource(EventSource::kHook, true);
    coverage_.SetSource(EventSource::kUffd, true);
  }

  void Tell(EventSource source, HvaRange range, int64_t lag_ns = 0, int32_t tid = 0) {
    HostEvent event;
    event.source = source;
    event.range = range;
    event.tid = tid;
    event.happened_ns = MonotonicNs();
    event.taken_ns = event.happened_ns + lag_ns;
    coverage_.Report(event);
  }
  void Do(ChurnKind kind, int times) {
    for (int i = 0; i < times; ++i) const Coverage::Operation operation(coverage_, kind, kPage);
  }
  CoverageRow RowOf(ChurnKind kind) const {
    return coverage_.Matrix().rows[static_cast<size_t>(kind)];
  }

  Coverage coverage_;
};

TEST_F(CoverageTest, AnEventBelongsToTheOperationOfItsRangeAndTime) {
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
    const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kElsewhere);
    Tell(EventSource::kHook, kPage, 3000);
    Tell(EventSource::kHook, kElsewhere);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].lag_us.max, 3U);
  EXPECT_EQ(RowOf(ChurnKind::kProtect).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).result, CoverageResult::kSeen);
  EXPECT_EQ(coverage_.Matrix().others[0], 0U);
}

TEST_F(CoverageTest, UserfaultfdIsNoSourceAnyMoreOnceAPartOfRamIsNotWatched) {
  coverage_.SetSource(EventSource::kUffd, true);
  Tell(EventSource::kUffd, kPage);
  EXPECT_TRUE(coverage_.Matrix().sources[static_cast<size_t>(EventSource::kUffd)]);
  HostEvent unwatched;
  unwatched.source = EventSource::kUffd;
  unwatched.change = HostChange::kLostRecords;
  unwatched.range = kPage;
  coverage_.Report(unwatched);
  EXPECT_FALSE(coverage_.Matrix().sources[static_cast<size_t>(EventSource::kUffd)]);
}

TEST_F(CoverageTest, OfTwoOperationsTheLatestIsTheCause) {
  const Coverage::Operation first(coverage_, ChurnKind::kZap, kPage);
  const Coverage::Operation second(coverage_, ChurnKind::kDiscard, kPage);
  Tell(EventSource::kHook, kPage);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kZap).cells[0].events, 0U);
}

TEST_F(CoverageTest, TheOperationOfTheThreadThatDidItIsTheCause) {
  std::optional<Coverage::Operation> zap;
  std::thread([&] { zap.emplace(coverage_, ChurnKind::kZap, kPage); }).join();
  {
    const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kBoth);
    std::optional<Coverage::Operation> discard;
    std::thread([&] { discard.emplace(coverage_, ChurnKind::kDiscard, kPage); }).join();
    Tell(EventSource::kHook, kPage, 0, ThisThread());
  }
  EXPECT_EQ(RowOf(ChurnKind::kProtect).cells[0].events, 1U);
}

TEST_F(CoverageTest, OtherwiseTheOperationOfExactlyThisRangeIsTheCause) {
  const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kBoth);
  Tell(EventSource::kHook, kPage);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
}

TEST_F(CoverageTest, AnOperationThatASourceCannotSeeIsNotItsCause) {
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
    const Coverage::Operation memslot(coverage_, ChurnKind::kMemslot, kPage);
    Tell(EventSource::kHook, kPage);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kMemslot).result, CoverageResult::kNothing);
}

TEST_F(CoverageTest, AnEventBeforeTheOperationIsAnothers) {
  HostEvent before;
  before.range = kPage;
  before.happened_ns = MonotonicNs();
  const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  coverage_.Report(before);
  EXPECT_EQ(coverage_.Matrix().others[0], 1U);
}

TEST_F(CoverageTest, AnOperationThatASourceMissedIsMissedEvenIfAnotherReportedIt) {
  Do(ChurnKind::kForeign, 10);
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kElsewhere);
    Tell(EventSource::kUffd, kElsewhere);
  }
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).result, CoverageResult::kMissed);
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kIdle);
}

TEST_F(CoverageTest, NothingIsExpectedOfASourceThatIsOff) {
  coverage_.SetSource(EventSource::kUffd, false);
  Do(ChurnKind::kForeign, 10);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kUnobservable);
  coverage_.SetSource(EventSource::kKernel, true);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kNothing)
      << "it owes nothing for what was done before";
  Do(ChurnKind::kForeign, 10);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
}

TEST_F(CoverageTest, NoEventIsRequiredForAnOperationThatChangedNothing) {
  coverage_.SetSource(EventSource::kKernel, true);
  for (int i = 0; i < 100; ++i) {
    Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
    discard.Changed({});
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).operations, 100U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).result, CoverageResult::kNothing);
}

TEST_F(CoverageTest, EventsAreRequiredOnlyOfSourcesThatReportTheKind) {
  coverage_.SetSource(EventSource::kKernel, true);
  for (int i = 0; i < 100; ++i) {
    Coverage::Operation wp(coverage_, ChurnKind::kWp, kPage);
    wp.Changed({true, true, false});
    Tell(EventSource::kHook, kPage, 0, ThisThread());
  }
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kSeen);
  EXPECT_EQ(RowOf(ChurnKind::kWp).cells[2].owed, 0U);
  Do(ChurnKind::kWp, 10);
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kMissed);
}

TEST_F(CoverageTest, AHookEventOfAThreadWithoutAnOperationBelongsToNoOperation) {
  std::optional<Coverage::Operation> fork;
  std::thread([&] { fork.emplace(coverage_, ChurnKind::kFork, kPage); }).join();
  for (int i = 0; i < 17; ++i) Tell(EventSource::kHook, kPage, 0, ThisThread());
  fork.reset();
  EXPECT_EQ(RowOf(ChurnKind::kFork).cells[0].events, 0U);
  EXPECT_EQ(RowOf(ChurnKind::kFork).result, CoverageResult::kUnobservable);
  EXPECT_EQ(coverage_.Matrix().others[0], 17U);
}

TEST_F(CoverageTest, WhatTheKernelDoesForAnotherThreadBelongsToAKindThatLetsOthersAct) {
  coverage_.SetSource(EventSource::kKernel, true);
  std::optional<Coverage::Operation> fork;
  std::optional<Coverage::Operation> zap;
  std::thread([&] {
    fork.emplace(coverage_, ChurnKind::kFork, kPage);
    zap.emplace(coverage_, ChurnKind::kZap, kPage);
  }).join();
  Tell(EventSource::kKernel, kPage, 0, ThisThread());
  EXPECT_EQ(RowOf(ChurnKind::kFork).cells[2].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kZap).cells[2].events, 0U);
}

TEST_F(CoverageTest, WhatTheKernelDoesForAnActorBelongsToItsOperation) {
  coverage_.SetSource(EventSource::kKernel, true);
  constexpr int32_t kActor = 1;
  Coverage::Operation adversary(coverage_, ChurnKind::kAdversary, kPage);
  adversary.ActsAs(kActor);
  const Coverage::Operation fork(coverage_, ChurnKind::kFork, kPage);
  Tell(EventSource::kKernel, kPage, 0, kActor);
  EXPECT_EQ(RowOf(ChurnKind::kAdversary).cells[2].events, 1U);
}

TEST_F(CoverageTest, AnEventThatIsReadLateBelongsToItsOperation) {
  coverage_.SetSource(EventSource::kKernel, true);
  HostEvent late;
  late.source = EventSource::kKernel;
  late.range = kPage;
  late.tid = ThisThread();
  {
    const Coverage::Operation zap(coverage_, ChurnKind::kZap, kPage);
    late.happened_ns = MonotonicNs();
  }
  Do(ChurnKind::kDiscard, 5000);
  coverage_.Report(late);
  EXPECT_EQ(RowOf(ChurnKind::kZap).cells[2].events, 1U);
}

TEST_F(CoverageTest, ASourceThatIsBehindADiscardedOperationHasNotMissedIt) {
  coverage_.SetSource(EventSource::kKernel, true);
  Do(ChurnKind::kForeign, 100);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).cells[2].owed, 100U);
  Do(ChurnKind::kMemslot, 20000);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).cells[2].owed, 0U);
}

TEST_F(CoverageTest, ASourceThatLostRecordsMayHaveLostThoseThatAreNotThere) {
  coverage_.SetSource(EventSource::kUffd, false);
  coverage_.SetSource(EventSource::kKernel, true);
  Do(ChurnKind::kForeign, 100);
  HostEvent lost;
  lost.source = EventSource::kKernel;
  lost.change = HostChange::kLostRecords;
  coverage_.Report(lost);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kTooFew);
}

TEST_F(CoverageTest, OfAFewOperationsOnlyAHookMustHaveSeenOne) {
  Do(ChurnKind::kForeign, 9);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kTooFew);
  Do(ChurnKind::kForeign, 1);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
  Do(ChurnKind::kWp, 1);
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kMissed);
}

TEST_F(CoverageTest, ManyOperationsAreRememberedWithinABound) {
  for (int i = 0; i < 20000; ++i) {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  }
  {
    const Coverage::Operation last(coverage_, ChurnKind::kDiscard, kPage);
    Tell(EventSource::kHook, kPage);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).operations, 20001U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
}

}  // namespace
}  // namespace underfoot
