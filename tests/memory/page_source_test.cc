#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <functional>
#include <utility>

#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "vmm/ram/guest_page_source.h"

namespace underfoot::testing {
namespace {

class PageSourceTest : public MemoryTest {
 protected:
  // A page-in that ends well, and what it says is what the kernel says.
  void ExpectPageIn(uint64_t i, Access access, Access granted, FaultContext* context = nullptr) {
    const PageInResult in = side().source.PageIn(side().PageAt(i), access, context);
    ASSERT_EQ(in.outcome, PageInOutcome::kPresent);
    EXPECT_EQ(in.granted, granted);
    const PagemapEntry entry = side().EntryOf(i);
    EXPECT_TRUE(entry.present);
    EXPECT_EQ(in.pfn, entry.pfn);
    EXPECT_EQ(in.granted == Access::kWrite, !entry.uffd_wp);
  }

  // A removal that is reported to no source: its event is read and dropped here.
  void RemoveUnnoticed(uint64_t i, int advice) {
    PendingMadvise foreign(side().uffd, side().Pages(i), advice);
    ASSERT_TRUE(foreign.pending());
    ASSERT_TRUE(ReadOneEvent(side().uffd));
  }
};

TEST_P(PageSourceTest, APageThatIsNowhereIsAWritablePageOfZeroes) {
  ExpectPageIn(0, Access::kRead, Access::kWrite);
  EXPECT_EQ(side().Load(0), 0u);
  ExpectPageIn(1, Access::kWrite, Access::kWrite);
}

TEST_P(PageSourceTest, APresentPageStaysAsItIs) {
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  const Pfn pfn = side().EntryOf(0).pfn;
  side().Store(0, 3);
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  EXPECT_EQ(side().EntryOf(0).pfn, pfn);
  EXPECT_EQ(side().Load(0), 3u);
}

// What the kernel said of a page may be old.
TEST_P(PageSourceTest, ThePageStateInAFaultIsOnlyAHint) {
  using Fault = GuestPageSource::Fault;
  uint64_t i = 0;
  for (const Fault::Kind kind : {Fault::Kind::kMissing, Fault::Kind::kMinor}) {
    for (const bool there : {false, true}) {
      for (const bool zapped : {false, true}) {
        if (there) ExpectPageIn(i, Access::kWrite, Access::kWrite);
        if (there) side().Store(i, i + 1);
        if (there && zapped) RemoveUnnoticed(i, MADV_DONTNEED);
        const bool absent = !there || zapped;
        Fault fault(side().PageAt(i), kind);
        ExpectPageIn(i, Access::kWrite, Access::kWrite, &fault);
        EXPECT_EQ(fault.woken(), absent);
        EXPECT_EQ(side().Load(i), there && (memfd() || !zapped) ? i + 1 : 0);
        ++i;
      }
    }
  }
}

TEST_P(PageSourceTest, AWriteProtectedPageThatWasReportedMissingIsLifted) {
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(0), true), UffdOutcome::kDone);
  GuestPageSource::Fault fault(side().PageAt(0), GuestPageSource::Fault::Kind::kMissing);
  ExpectPageIn(0, Access::kRead, Access::kRead, &fault);
  ExpectPageIn(0, Access::kWrite, Access::kWrite, &fault);
}

TEST_P(PageSourceTest, AZappedPageKeepsItsContentIfTheFileHasIt) {
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  side().Store(0, 4);
  RemoveUnnoticed(0, MADV_DONTNEED);
  EXPECT_FALSE(side().EntryOf(0).present);
  ExpectPageIn(0, Access::kRead, Access::kWrite);
  EXPECT_EQ(side().Load(0), memfd() ? 4u : 0u);
}

TEST_P(PageSourceTest, AWriteProtectedPageIsGrantedForReadingUntilAWriteFault) {
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(0), true), UffdOutcome::kDone);
  ExpectPageIn(0, Access::kRead, Access::kRead);
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  side().Store(0, 5);
  EXPECT_EQ(side().Load(0), 5u);
}

// What a zap leaves of a write-protected memfd page is a marker, which pagemap shows like a page in
// swap. It is none: it never comes in by itself.
TEST_P(PageSourceTest, AZappedWriteProtectedPageComesIn) {
  for (const Access access : {Access::kRead, Access::kWrite}) {
    const uint64_t i = access == Access::kRead ? 0 : 1;
    ExpectPageIn(i, Access::kWrite, Access::kWrite);
    side().Store(i, 6);
    ASSERT_EQ(side().uffd.WriteProtect(side().Pages(i), true), UffdOutcome::kDone);
    RemoveUnnoticed(i, MADV_DONTNEED);
    ASSERT_FALSE(side().EntryOf(i).present);
    EXPECT_EQ(side().EntryOf(i).swapped, memfd());
    const PageInResult in = side().source.PageIn(side().PageAt(i), access, nullptr);
    ASSERT_EQ(in.outcome, PageInOutcome::kPresent);
    EXPECT_TRUE(side().EntryOf(i).present);
    EXPECT_EQ(side().Load(i), memfd() ? 6u : 0u);
  }
}

TEST_P(PageSourceTest, WhileARemovalIsPendingThePageComesInAndNoTranslationMayBeKept) {
  side().removals.Add(side().Pages(0));
  const PageInResult in = side().source.PageIn(side().PageAt(0), Access::kWrite, nullptr);
  EXPECT_EQ(in.outcome, PageInOutcome::kRemovalPending);
  EXPECT_TRUE(side().EntryOf(0).present);
  ExpectPageIn(1, Access::kWrite, Access::kWrite);
}

// PendingRemovals asks for the time, and the zap comes at that moment and completes.
std::function<void()> g_zap;
absl::Time g_now;
absl::Time NowAndZap() {
  if (g_zap) std::exchange(g_zap, nullptr)();
  return g_now;
}

// The source must check for a pending removal before it looks at the page. Otherwise the zap can
// come and be over after the look, and a leaf is made of a page that is gone.
TEST_P(PageSourceTest, APageWhoseRemovalCompletesDuringThePageInIsNotConsideredPresent) {
  constexpr absl::Duration kBound = absl::Seconds(1);
  g_now = absl::UnixEpoch();
  PendingRemovals removals(kBound, &NowAndZap);
  GuestPageSource source(side().uffd, side().pagemap, removals, GetParam());
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  removals.Add(side().Pages(0));
  bool zapped = false;
  g_zap = [&] {
    RemoveUnnoticed(0, MADV_DONTNEED);
    zapped = !side().EntryOf(0).present;
    g_now += kBound;
  };
  const PageInResult in = source.PageIn(side().PageAt(0), Access::kWrite, nullptr);
  EXPECT_TRUE(zapped);
  EXPECT_EQ(in.outcome, PageInOutcome::kPresent);
  EXPECT_TRUE(side().EntryOf(0).present);
  EXPECT_EQ(in.pfn, side().EntryOf(0).pfn);
}

// For a window it is asked once and for all: of a removal that is read later the claims are taken.
TEST_P(PageSourceTest, NoPageOfAWindowWithAPendingRemovalIsBroughtIn) {
  constexpr absl::Duration kBound = absl::Seconds(1);
  g_now = absl::UnixEpoch();
  PendingRemovals removals(kBound, &NowAndZap);
  GuestPageSource source(side().uffd, side().pagemap, removals, GetParam());
  ExpectPageIn(0, Access::kWrite, Access::kWrite);
  removals.Add(side().Pages(0));
  std::array<PageInResult, 4> results;
  source.PageInSome(side().Pages(0, results.size()), results, nullptr);
  for (const PageInResult& in : results) EXPECT_EQ(in.outcome, PageInOutcome::kRemovalPending);
  EXPECT_FALSE(side().EntryOf(1).present);
  g_zap = [&] {
    RemoveUnnoticed(0, MADV_DONTNEED);
    g_now += kBound;
  };
  source.PageInSome(side().Pages(0, results.size()), results, nullptr);
  for (uint64_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].outcome, PageInOutcome::kPresent) << i;
    EXPECT_TRUE(side().EntryOf(i).present) << i;
    EXPECT_EQ(results[i].pfn, side().EntryOf(i).pfn) << i;
  }
}

TEST_P(PageSourceTest, AnUnreadEventIsAnOutcomeAndIsCounted) {
  PendingMadvise foreign(side().uffd, side().Pages(8), MADV_DONTNEED);
  ASSERT_TRUE(foreign.pending());
  EXPECT_EQ(side().source.PageIn(side().PageAt(0), Access::kRead, nullptr).outcome,
            PageInOutcome::kAgain);
  EXPECT_EQ(side().source.eagain(), 1u);
  EXPECT_FALSE(side().EntryOf(0).present);
  ASSERT_TRUE(ReadOneEvent(side().uffd));
  foreign.Join();
  ExpectPageIn(0, Access::kRead, Access::kWrite);
}

TEST_P(PageSourceTest, AnHvaThatIsNoRamFails) {
  EXPECT_EQ(side().source.PageIn({0x1000}, Access::kRead, nullptr).outcome, PageInOutcome::kFailed);
}

UNDERFOOT_FOR_BOTH_BACKINGS(PageSourceTest);

}  // namespace
}  // namespace underfoot::testing
