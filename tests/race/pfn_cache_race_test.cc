// pfn caches: refresh, key change and deactivation against invalidations and readers (P4).

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>

#include "mmu/pfn_cache.h"
#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class PfnCacheRaceTest : public RaceTest {
 protected:
  ~PfnCacheRaceTest() override { cache_.Deactivate(); }

  void ActivateAt(PfnCache::Key key, Access access = Access::kRead) {
    const absl::Status activated = cache_.Activate(reader_, key, 64, access);
    ASSERT_TRUE(activated.ok()) << activated;
  }
  // A refresh that runs on a thread of its own.
  std::unique_ptr<Task> Refresh() {
    return std::make_unique<Task>("refresh", [this] {
      Reader reader(mmu_.readers());
      EXPECT_EQ(cache_.Refresh(reader), RefreshOutcome::kValid);
    });
  }
  bool Valid() { return static_cast<bool>(cache_.Check(reader_)); }
  uint64_t Retries() { return mmu_.Stats().pfn_caches.refresh_retries; }

  Reader reader_{mmu_.readers()};
  PfnCache cache_{mmu_, "raced"};
};

//   refresh                         invalidation
//   2 lists the cache, PENDING; 4 looks up
//                                   Begin takes PENDING away; the page moves; End
//   5 fails, since the state is not PENDING; starts again
TEST_F(PfnCacheRaceTest, AWholeBracketInsideALookUpIsNotMissed) {
  constexpr uint64_t kInNoSlot = kPages - 1;  // no memslot covers this page
  ActivateAt(host_.PageAt(kInNoSlot));
  MovePage(kInNoSlot);
  Gate gate("page-source");
  host_.SetAnswer([this](Hva page, Access) {
    const Pfn before = host_.PfnOf(page);
    PassSyncPoint("page-source");
    return PageInResult{PageInOutcome::kPresent, before, Access::kWrite};
  });
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  MovePage(kInNoSlot);
  gate.Open();
  refresh->Join();
  EXPECT_TRUE(Valid());
  EXPECT_EQ(cache_.Describe().pfn(), PfnNow(kInNoSlot));
  EXPECT_EQ(Retries(), 1u);
}

//   refresh                         invalidation
//   2 lists the cache, PENDING
//                                   Begin takes PENDING away; the mapping is moved away
//   4 look-up fails; the state is not PENDING; starts again
TEST_F(PfnCacheRaceTest, ALookUpThatFailsUnderABracketIsRetried) {
  ActivateAt(host_.PageAt(5));
  MovePage(5);
  bool away = true;
  Gate gate("page-source");
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (!std::exchange(away, false)) return std::nullopt;
    PassSyncPoint("page-source");
    return PageInResult{};
  });
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  MovePage(5);
  gate.Open();
  refresh->Join();
  EXPECT_TRUE(Valid());
}

TEST_F(PfnCacheRaceTest, ABracketAfterTheLookUpIsNotMissed) {
  ActivateAt(host_.PageAt(5));
  MovePage(5);
  Gate gate("refresh-looked-up");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  MovePage(5);
  gate.Open();
  refresh->Join();
  EXPECT_EQ(cache_.Describe().pfn(), PfnNow(5));
}

TEST_F(PfnCacheRaceTest, ABeginBetweenListingAndCheckIsSeen) {
  ActivateAt(host_.PageAt(5));
  MovePage(5);
  Gate pending("refresh-pending");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(pending, *refresh));
  OpenBracket held = Begin(5);
  Gate waits("wait-for-end");
  pending.Open();
  ASSERT_TRUE(StopsAt(waits, *refresh));
  EXPECT_FALSE(Valid());
  host_.Move(host_.Pages(5));
  held.End();
  waits.Open();
  refresh->Join();
  EXPECT_TRUE(Valid());
  EXPECT_EQ(cache_.Describe().pfn(), PfnNow(5));
}

TEST_F(PfnCacheRaceTest, ARefreshWaitsForTheBracketInFlight) {
  ActivateAt(GpaAt(5));
  OpenBracket held = Begin(5);
  Gate gate("wait-for-end");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  EXPECT_FALSE(Valid());
  gate.Open();
  held.End();
  refresh->Join();
  EXPECT_TRUE(Valid());
}

TEST_F(PfnCacheRaceTest, AnUnrelatedBracketCausesNoRetry) {
  ActivateAt(GpaAt(5));
  MovePage(5);
  OpenBracket held = Begin(6);
  auto refresh = Refresh();
  refresh->Join();
  EXPECT_TRUE(Valid());
  EXPECT_EQ(Retries(), 0u);
  held.End();
}

//   reader                          invalidation
//   Check: VALID; enters a section
//                                   Begin: INVALID; waits for the section
//   the state has changed: leaves, reports a miss
TEST_F(PfnCacheRaceTest, AnAnnouncedReaderSeesTheInvalidation) {
  ActivateAt(GpaAt(5));
  Gate announced("check-announced");
  bool hit = true;
  Task reader("reader", [&] {
    Reader mine(mmu_.readers());
    hit = static_cast<bool>(cache_.Check(mine));
  });
  ASSERT_TRUE(StopsAt(announced, reader));
  Gate waits("reader-wait");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(waits, begin));
  waits.Open();
  announced.Open();
  reader.Join();
  begin.Join();
  EXPECT_FALSE(hit);
  held.End();
}

TEST_F(PfnCacheRaceTest, AKeyChangeWaitsForReaders) {
  ActivateAt(GpaAt(5));
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  Gate gate("reader-wait");
  Task change("key change", [&] {
    Reader mine(mmu_.readers());
    EXPECT_TRUE(cache_.Activate(mine, GpaAt(6), 64, Access::kRead).ok());
  });
  ASSERT_TRUE(StopsAt(gate, change));
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(5));
  section = {};
  gate.Open();
  change.Join();
  section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(6));
}

// The new key is in the same page, so the listing does not change. The bytes at data() would
// change.
TEST_F(PfnCacheRaceTest, AKeyChangeWithinThePageWaitsForReaders) {
  ActivateAt(GpaAt(5));
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  Gate gate("reader-wait");
  Task change("key change", [&] {
    Reader mine(mmu_.readers());
    EXPECT_TRUE(cache_.Activate(mine, GpaAt(5) + 128, 64, Access::kRead).ok());
  });
  ASSERT_TRUE(StopsAt(gate, change));
  section = {};
  gate.Open();
  change.Join();
  section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(5) + 128);
}

//   reader          key change               invalidation of the old page
//   in a section
//                   INVALID; waits
//                                            finds nothing to drop, but waits too
TEST_F(PfnCacheRaceTest, ABeginDuringAKeyChangeWaitsForReaders) {
  ActivateAt(GpaAt(5));
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  Gate first("reader-wait");
  Task change("key change", [&] {
    Reader mine(mmu_.readers());
    EXPECT_TRUE(cache_.Activate(mine, GpaAt(6), 64, Access::kRead).ok());
  });
  ASSERT_TRUE(StopsAt(first, change));
  Gate second("reader-wait");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(second, begin));
  section = {};
  first.Open();
  second.Open();
  change.Join();
  begin.Join();
  held.End();
}

TEST_F(PfnCacheRaceTest, ADeactivateWaitsForReaders) {
  ActivateAt(GpaAt(5));
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  Gate gate("reader-wait");
  Task deactivate("deactivate", [&] { cache_.Deactivate(); });
  ASSERT_TRUE(StopsAt(gate, deactivate));
  section = {};
  gate.Open();
  deactivate.Join();
  EXPECT_FALSE(Valid());
  EXPECT_EQ(mmu_.Stats().pfn_caches.count, 0u);
}

// The readers have left and the cache is still listed. An invalidation that finds it has nothing to
// do.
TEST_F(PfnCacheRaceTest, ABeginBeforeTheCacheIsUnlistedIsHarmless) {
  ActivateAt(GpaAt(5));
  Gate gate("deactivate-drained");
  Task deactivate("deactivate", [&] { cache_.Deactivate(); });
  ASSERT_TRUE(StopsAt(gate, deactivate));
  MovePage(5);
  gate.Open();
  deactivate.Join();
  EXPECT_EQ(mmu_.Stats().pfn_caches.count, 0u);
}

//   invalidation                    deactivation
//   b precheck: overlap
//                                   INVALID; unlisted; the cache is destroyed
//   c searches again with the lock exclusive; finds nothing
TEST_F(PfnCacheRaceTest, TheExclusiveStepLooksAgain) {
  auto doomed = std::make_unique<PfnCache>(mmu_, "doomed");
  ASSERT_TRUE(doomed->Activate(reader_, GpaAt(5), 64, Access::kRead).ok());
  Gate gate("precheck-overlap");
  Task bracket("bracket", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, bracket));
  doomed->Deactivate();
  doomed.reset();
  gate.Open();
  bracket.Join();
  EXPECT_EQ(mmu_.Stats().pfn_caches.precheck_overlaps, 1u);
  EXPECT_EQ(mmu_.Stats().pfn_caches.invalidations, 0u);
}

//   refresh                         invalidation
//                                   a in flight; before the precheck
//   2 lists the cache, PENDING; 3 finds the range and waits
//                                   b precheck: overlap; c drops PENDING
TEST_F(PfnCacheRaceTest, APrecheckFindsACacheListedAfterTheRange) {
  ActivateAt(GpaAt(5));
  MovePage(5);
  Gate in_flight("begin-in-flight");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(in_flight, begin));
  Gate waits("wait-for-end");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(waits, *refresh));
  in_flight.Open();
  begin.Join();
  EXPECT_FALSE(Valid());
  waits.Open();
  held.End();
  refresh->Join();
  EXPECT_TRUE(Valid());
}

//   refresh                         memslot update
//   1 translates the gpa by the old slot
//                                   deletes the slot; finds no cache listed at the old place;
//                                   another slot gets the gfns
//   2 lists; 4 looks up; 5 finds another identity; starts again
TEST_F(PfnCacheRaceTest, ASlotThatMovesBeforeTheListingIsNoticed) {
  ActivateAt(GpaAt(5));
  cache_.Deactivate();
  Gate gate("refresh-translated");
  Task activate("activate", [&] {
    Reader mine(mmu_.readers());
    EXPECT_TRUE(cache_.Activate(mine, GpaAt(5), 64, Access::kRead).ok());
  });
  ASSERT_TRUE(StopsAt(gate, activate));
  MoveSlot();
  gate.Open();
  activate.Join();
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(kPages / 2 + 5));
}

TEST_F(PfnCacheRaceTest, ASlotThatMovesDuringTheLookUpIsNoticed) {
  ActivateAt(GpaAt(5));
  MovePage(5);
  Gate gate("refresh-looked-up");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  MoveSlot();
  gate.Open();
  refresh->Join();
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(kPages / 2 + 5));
}

// A look-up that does not return delays no invalidation and no inspection.
TEST_F(PfnCacheRaceTest, ALookUpThatNeverReturnsBlocksNoBegin) {
  ActivateAt(GpaAt(5));
  MovePage(5);
  host_.SetAnswer([](Hva, Access) {
    PassSyncPoint("page-source");
    return std::nullopt;
  });
  Gate gate("page-source");
  auto refresh = Refresh();
  ASSERT_TRUE(StopsAt(gate, *refresh));
  Task others("bracket and inspection", [&] {
    MovePage(5);
    mmu_.caches().ForEach([](const PfnCache& cache) { EXPECT_FALSE(cache.Describe().valid); });
  });
  others.Join();
  gate.Open();
  refresh->Join();
  EXPECT_TRUE(Valid());
}

}  // namespace
}  // namespace underfoot::testing
