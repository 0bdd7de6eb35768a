#include "vmm/evidence/pending_removals.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

constexpr HvaRange kRemoved{{0x10000}, {0x14000}};
constexpr HvaRange kPageWithin{{0x13000}, {0x14000}};
constexpr HvaRange kPageBefore{{0xf000}, {0x10000}};
constexpr HvaRange kPageBehind{{0x14000}, {0x15000}};

TEST(PendingRemovalsTest, EachPageOfAnAddedRangeIsPending) {
  PendingRemovals removals(absl::Hours(1));
  EXPECT_FALSE(removals.Pending(kRemoved));
  removals.Add(kRemoved);
  EXPECT_TRUE(removals.Pending(kRemoved));
  EXPECT_TRUE(removals.Pending(kPageWithin));
  EXPECT_FALSE(removals.Pending(kPageBefore));
  EXPECT_FALSE(removals.Pending(kPageBehind));
}

TEST(PendingRemovalsTest, AfterItsBoundARangeIsNotPendingAndIsStillAnExplanation) {
  PendingRemovals removals(absl::ZeroDuration());
  removals.Add(kRemoved);
  EXPECT_FALSE(removals.Pending(kPageWithin));
  EXPECT_TRUE(removals.Explains(kPageWithin));
  EXPECT_FALSE(removals.Explains(kPageBehind));
}

TEST(PendingRemovalsTest, APendingRemovalEndsByItself) {
  PendingRemovals removals(absl::Milliseconds(20));
  removals.Add(kRemoved);
  EXPECT_TRUE(WaitUntil([&] { return !removals.Pending(kRemoved); }));
}

// Time that passes when the test says so.
absl::Time g_clock;

TEST(PendingRemovalsTest, ALaterRemovalIsPendingAgain) {
  constexpr absl::Duration kBound = absl::Milliseconds(20);
  g_clock = absl::UnixEpoch();
  PendingRemovals removals(kBound, [] { return g_clock; });
  removals.Add(kRemoved);
  g_clock += kBound - absl::Nanoseconds(1);
  EXPECT_TRUE(removals.Pending(kRemoved));
  g_clock += absl::Nanoseconds(1);
  EXPECT_FALSE(removals.Pending(kRemoved));
  removals.Add(kPageWithin);
  EXPECT_TRUE(removals.Pending(kRemoved));
  EXPECT_FALSE(removals.Pending({kRemoved.begin, kPageWithin.begin}));
}

TEST(PendingRemovalsTest, ARemovalThatIsOverIsNotPendingAndIsStillAnExplanation) {
  PendingRemovals removals(absl::Hours(1));
  removals.Add(kRemoved, 1);
  removals.Add(kRemoved, 2);
  removals.Complete(kRemoved, 3);
  removals.Complete(kPageWithin, 1);
  EXPECT_EQ(removals.passed(), 0u);
  removals.Complete(kRemoved, 1);
  EXPECT_TRUE(removals.Pending(kPageWithin)) << "the second has not passed";
  removals.Complete(kRemoved, 2);
  EXPECT_FALSE(removals.Pending(kPageWithin));
  EXPECT_TRUE(removals.Explains(kPageWithin));
  EXPECT_EQ(removals.passed(), 2u);
}

// Each of two handlers has read a removal, and the second is added before the first handler has
// looked at its pages.
TEST(PendingRemovalsTest, ARemovalThatIsAddedBeforeAnotherOneIsNotedSharesItsEvidence) {
  for (const HvaRange second : {kRemoved, kPageWithin}) {
    PendingRemovals removals(absl::Hours(1));
    const uint64_t first = removals.Add(kRemoved, 1);
    const uint64_t other = removals.Add(second, 2);
    removals.NotePresent(other, std::vector<bool>(second.size() >> kPageShift, true));
    removals.NotePresent(first, std::vector<bool>(4, true));
    removals.Complete(second, 2);
    removals.NoteAbsent(kPageWithin.begin, removals.Now());
    EXPECT_TRUE(removals.Pending(kPageWithin)) << "the zap of the first is still to come";
    removals.NoteAbsent(kRemoved.begin, removals.Now());
    EXPECT_EQ(removals.Pending(PageRangeOf(kRemoved.begin)), second == kRemoved);
  }
}

// The handlers are done in another order than they began.
TEST(PendingRemovalsTest, ARemovalIsNotedAfterALaterOneOfOtherPages) {
  PendingRemovals removals(absl::Hours(1));
  const uint64_t first = removals.Add(kPageWithin, 1);
  removals.NotePresent(removals.Add(kPageBehind, 2), {true});
  removals.NotePresent(first, {true});
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_FALSE(removals.Pending(kPageWithin));
}

// Both were open on the page when it went, so its absence is evidence of neither, also when the
// kernel's record has ended one of them.
TEST(PendingRemovalsTest, WhatOneOfTwoRemovalsLeftIsNoEvidenceOfTheOther) {
  for (const int64_t passed : {1, 2}) {
    PendingRemovals removals(absl::Hours(1));
    const std::vector<bool> there(4, true);
    removals.NotePresent(removals.Add(kRemoved, 1), there);
    removals.NotePresent(removals.Add(kRemoved, 2), there);
    removals.Complete(kRemoved, passed);
    removals.NoteAbsent(kPageWithin.begin, removals.Now());
    EXPECT_TRUE(removals.Pending(kPageWithin)) << "the zap of the other is still to come";
    EXPECT_EQ(removals.settled(), 0u);
    removals.Complete(kRemoved, 3 - passed);
    EXPECT_FALSE(removals.Pending(kPageWithin));
  }
}

// The absence may have been the work of a change whose event comes after it.
TEST(PendingRemovalsTest, AnUnmapThatIsReadLaterTakesTheEvidenceBack) {
  PendingRemovals removals(absl::Hours(1));
  removals.NotePresent(removals.Add(kRemoved, 1), std::vector<bool>(4, true));
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_FALSE(removals.Pending(kPageWithin));
  removals.Reopen(kPageWithin);
  EXPECT_TRUE(removals.Pending(kPageWithin));
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_TRUE(removals.Pending(kPageWithin)) << "what is absent now is the work of the unmap";
  removals.Complete(kRemoved, 1);
  EXPECT_FALSE(removals.Pending(kPageWithin));
}

TEST(PendingRemovalsTest, PagesOfOneRemovalCompleteByEvidenceBesidePagesOfTwo) {
  PendingRemovals removals(absl::Hours(1));
  removals.NotePresent(removals.Add(kRemoved, 1), std::vector<bool>(4, true));
  removals.NotePresent(removals.Add(kPageWithin, 2), {true});
  const Hva alone = kRemoved.begin;
  removals.NoteAbsent(alone, removals.Now());
  EXPECT_FALSE(removals.Pending(PageRangeOf(alone)));
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_TRUE(removals.Pending(kPageWithin));
}

// The zap of the first removal has been over the page when the second is added: what is absent then
// is the work of the second.
TEST(PendingRemovalsTest, ARemovalOfAPageWhoseEarlierRemovalIsOverGivesEvidence) {
  PendingRemovals removals(absl::Hours(1));
  removals.NotePresent(removals.Add(kRemoved, 1), std::vector<bool>(4, true));
  removals.Complete(kRemoved, 1);
  removals.NotePresent(removals.Add(kPageWithin, 2), {true});
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_FALSE(removals.Pending(kPageWithin));
  EXPECT_EQ(removals.settled(), 1u);
}

// What a read lets go on may be over before it is added.
TEST(PendingRemovalsTest, APageSeenAbsentWhileAnEventIsReadIsNoEvidence) {
  PendingRemovals removals(absl::Hours(1));
  removals.NotePresent(removals.Add(kRemoved, 1), std::vector<bool>(4, true));
  {
    const EventReads::Scope reading(removals.reads(), 0);
    removals.NoteAbsent(kPageWithin.begin, removals.Now());
    EXPECT_TRUE(removals.Pending(kPageWithin));
    removals.NotePresent(removals.Add(kPageWithin, 2), {true});
  }
  removals.NoteAbsent(kPageWithin.begin, removals.Now());
  EXPECT_TRUE(removals.Pending(kPageWithin));
  removals.NoteAbsent(kRemoved.begin, removals.Now());
  EXPECT_FALSE(removals.Pending(PageRangeOf(kRemoved.begin)));
}

TEST(PendingRemovalsTest, WhereRecordsAreExpectedTheBoundCountsOnceTheyAreLost) {
  PendingRemovals removals(absl::ZeroDuration());
  removals.ExpectRecords(true);
  removals.Add(kRemoved);
  EXPECT_TRUE(removals.Pending(kRemoved));
  removals.RecordsLost();
  EXPECT_FALSE(removals.Pending(kRemoved));
  removals.ExpectRecords(false);
  removals.Add(kRemoved);
  EXPECT_FALSE(removals.Pending(kRemoved));
}

TEST(PendingRemovalsTest, OneOfManyIsFound) {
  PendingRemovals removals(absl::Hours(1));
  for (uint64_t i = 0; i < 1000; ++i) removals.Add(PageRangeOf(Hva{i * 2 * kPageSize}));
  EXPECT_TRUE(removals.Pending(PageRangeOf(Hva{0})));
  EXPECT_TRUE(removals.Pending(PageRangeOf(Hva{500 * 2 * kPageSize})));
  EXPECT_FALSE(removals.Pending(PageRangeOf(Hva{501 * kPageSize})));
}

}  // namespace
}  // namespace underfoot::testing
