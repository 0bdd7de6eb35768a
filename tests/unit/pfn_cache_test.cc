#include "mmu/pfn_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

class PfnCacheTest : public MmuRig {
 protected:
  ~PfnCacheTest() override { cache_.Deactivate(); }

  absl::Status Activate(PfnCache::Key key, uint64_t bytes = 64, Access access = Access::kRead) {
    return cache_.Activate(reader_, key, bytes, access);
  }
  bool Valid() { return static_cast<bool>(cache_.Check(reader_)); }
  PfnCacheStats Stats() { return mmu_.Stats().pfn_caches; }

  PfnCache cache_{mmu_, "ring"};
};

TEST_F(PfnCacheTest, ACacheIsNotValidBeforeItIsActivated) {
  EXPECT_FALSE(Valid());
  EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kInactive);
  cache_.Deactivate();  // harmless
  EXPECT_EQ(Stats().count, 0u);
}

TEST_F(PfnCacheTest, AGpaKeyFaultsThePageInAndFindsItsBytes) {
  ASSERT_TRUE(Activate(GpaAt(5) + 0x40, 64).ok());
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), host_.PageAt(5) + 0x40);
  EXPECT_TRUE(LeafOf(5).has_value());
  EXPECT_EQ(Stats().count, 1u);
  const PfnCache::Description description = cache_.Describe();
  EXPECT_EQ(description.name, "ring");
  EXPECT_EQ(description.key, PfnCache::Key(GpaAt(5) + 0x40));
  EXPECT_EQ(description.bytes, 64u);
  EXPECT_TRUE(description.valid);
  EXPECT_EQ(description.hva, host_.PageAt(5));
  EXPECT_EQ(description.pfn(), PfnNow(5));
}

TEST_F(PfnCacheTest, AnHvaKeyNeedsNoMemslot) {
  FakeHost elsewhere(1);
  host_.SetAnswer([&](Hva page, Access) {
    return PageInResult{PageInOutcome::kPresent, elsewhere.PfnOf(page), Access::kWrite};
  });
  ASSERT_TRUE(Activate(elsewhere.PageAt(0) + 8, 8).ok());
  CacheSection section = cache_.Check(reader_);
  ASSERT_TRUE(section);
  EXPECT_EQ(HvaOf(section.data()), elsewhere.PageAt(0) + 8);
  section = {};
  InvalidationScope scope(mmu_.notifier(), {elsewhere.Pages(0), InvalidationKind::kUnmap});
  EXPECT_FALSE(Valid());
}

// The same number as a gpa and as an hva are two things.
TEST_F(PfnCacheTest, AKeyIsAGpaOrAnHvaAndNeverTurnsIntoTheOther) {
  EXPECT_EQ(Activate(Gpa{host_.PageAt(5).value}).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Valid());
  EXPECT_TRUE(Activate(host_.PageAt(5)).ok());
}

struct Length {
  uint64_t offset;
  uint64_t bytes;
  bool good;
};

TEST_F(PfnCacheTest, ItCoversOneToSixteenPages) {
  constexpr uint64_t kMost = PfnCache::kMaxPages * kPageSize;
  const Length lengths[] = {
      {0, 0, false},         {0, 1, true},         {0, kMost, true},
      {0, kMost + 1, false}, {1, kMost - 1, true}, {1, kMost, false},
      {4095, 1, true},       {4095, 2, true},      {0, ~uint64_t{0}, false},
  };
  for (const Length& length : lengths) {
    const absl::Status status = Activate(GpaAt(5) + length.offset, length.bytes);
    EXPECT_EQ(status.ok(), length.good) << length.offset << "+" << length.bytes << ": " << status;
    if (!length.good) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("pfn cache ring"));
    }
  }
}

TEST_F(PfnCacheTest, EveryPageOfItIsInvalidated) {
  ASSERT_TRUE(Activate(GpaAt(5), 3 * kPageSize).ok());
  for (uint64_t page = 5; page < 8; ++page) {
    EXPECT_TRUE(LeafOf(page).has_value());
    Invalidate(page);
    EXPECT_FALSE(Valid()) << page;
    ASSERT_EQ(cache_.Refresh(reader_), RefreshOutcome::kValid);
  }
  Invalidate(4);
  Invalidate(8);
  EXPECT_TRUE(Valid());
}

TEST_F(PfnCacheTest, ARangeThatLeavesItsSlotIsRefused) {
  const absl::Status status = Activate(GpaAt(kPages - 1), kPageSize + 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no single memslot"));
  EXPECT_EQ(Stats().count, 0u);
  EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kInactive);
}

TEST_F(PfnCacheTest, AReadOnlySlotIsReadAndNotWritten) {
  ASSERT_TRUE(mmu_.CreateMemslot({.id = 9,
                                  .gfns = {{0x500}, {0x501}},
                                  .hva = host_.PageAt(0),
                                  .flags = {.read_only = true}})
                  .ok());
  EXPECT_FALSE(Activate(GpaOf({0x500}), 64, Access::kWrite).ok());
  EXPECT_TRUE(Activate(GpaOf({0x500}), 64, Access::kRead).ok());
}

TEST_F(PfnCacheTest, AnInvalidationDropsAndARefreshBringsBack) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  {
    InvalidationScope scope(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kUnmap});
    EXPECT_FALSE(Valid());
    host_.Move(host_.Pages(5));
  }
  EXPECT_FALSE(Valid());
  EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kValid);
  EXPECT_TRUE(Valid());
  EXPECT_EQ(cache_.Describe().pfn(), PfnNow(5));
  EXPECT_EQ(cache_.Describe().invalidations, 1u);
}

TEST_F(PfnCacheTest, ARefreshOfAValidCacheDoesNothing) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  const uint64_t page_ins = host_.page_ins();
  EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kValid);
  EXPECT_EQ(host_.page_ins(), page_ins);
  EXPECT_EQ(Stats().refreshes, 1u);
}

TEST_F(PfnCacheTest, AProtectDropsWhatMayWriteAndKeepsTheRest) {
  PfnCache writer(mmu_, "writer");
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  ASSERT_TRUE(writer.Activate(reader_, GpaAt(5), 64, Access::kWrite).ok());
  Invalidate(5, 1, InvalidationKind::kProtect);
  EXPECT_TRUE(Valid());
  EXPECT_FALSE(writer.Check(reader_));
  writer.Deactivate();
}

TEST_F(PfnCacheTest, ACacheThatWritesMakesItsLeafDirty) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_FALSE(LeafOf(5)->dirty());
  ASSERT_TRUE(Activate(GpaAt(5), 64, Access::kWrite).ok());
  EXPECT_TRUE(LeafOf(5)->dirty());
}

TEST_F(PfnCacheTest, AnotherKeyTakesThePlaceOfTheFirst) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  ASSERT_TRUE(Activate(host_.PageAt(9)).ok());
  EXPECT_EQ(Stats().count, 1u);
  Invalidate(5);
  EXPECT_TRUE(Valid());
  Invalidate(9);
  EXPECT_FALSE(Valid());
}

TEST_F(PfnCacheTest, AnActivationThatFailsLeavesNoTranslationBehind) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  EXPECT_FALSE(Activate(GpaOf(kNowhere)).ok());
  EXPECT_FALSE(Valid());
  EXPECT_EQ(Stats().count, 0u);
  host_.SetAnswer([](Hva, Access) { return PageInResult{}; });
  EXPECT_EQ(Activate(GpaAt(6)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Activate(host_.PageAt(6)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Stats().count, 0u);
}

// The device works by hva meanwhile; later the refresh gets a translation.
TEST_F(PfnCacheTest, APageWithAPendingRemovalLeavesTheCacheActiveAndNotValid) {
  bool removals = true;
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (removals) return PageInResult{PageInOutcome::kRemovalPending, {}, Access::kRead};
    return std::nullopt;
  });
  for (const PfnCache::Key& key : {PfnCache::Key(GpaAt(5)), PfnCache::Key(host_.PageAt(6))}) {
    removals = true;
    ASSERT_TRUE(Activate(key).ok());
    EXPECT_FALSE(Valid());
    EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kRemovalPending);
    removals = false;
    EXPECT_EQ(cache_.Refresh(reader_), RefreshOutcome::kValid);
    EXPECT_TRUE(Valid());
  }
}

TEST_F(PfnCacheTest, AnHvaLookUpRetriesIfTheSourceReturnsAgain) {
  int refusals = 2;
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (refusals-- > 0) return PageInResult{PageInOutcome::kAgain, {}, Access::kRead};
    return std::nullopt;
  });
  EXPECT_TRUE(Activate(host_.PageAt(5)).ok());
  EXPECT_EQ(host_.page_ins(), 3u);
}

TEST_F(PfnCacheTest, ALookUpThatTheSourceDefersTooOftenIsAnOutcomeByHvaAndByGpa) {
  constexpr unsigned kTries = 12;
  Mmu mmu(host_, {.page_in_tries = kTries});
  ASSERT_TRUE(
      mmu.CreateMemslot({.id = 1, .gfns = {Gfn{0}, Gfn{8}}, .hva = host_.range().begin}).ok());
  Reader reader(mmu.readers());
  bool again = false;
  host_.SetAnswer([&](Hva, Access) -> std::optional<PageInResult> {
    if (again) return PageInResult{PageInOutcome::kAgain, {}, Access::kRead};
    return std::nullopt;
  });
  for (const PfnCache::Key key : {PfnCache::Key(host_.PageAt(5)), PfnCache::Key(GpaOf(Gfn{5}))}) {
    PfnCache cache(mmu, "cache");
    ASSERT_TRUE(cache.Activate(reader, key, 8, Access::kRead).ok());
    { InvalidationScope bracket(mmu.notifier(), {host_.Pages(5)}); }
    again = true;
    const uint64_t before = host_.page_ins();
    EXPECT_EQ(cache.Refresh(reader), RefreshOutcome::kAgain);
    EXPECT_EQ(host_.page_ins(), before + kTries);
    EXPECT_FALSE(cache.Describe().pending);
    again = false;
    EXPECT_EQ(cache.Refresh(reader), RefreshOutcome::kValid);
    cache.Deactivate();
    { InvalidationScope bracket(mmu.notifier(), {host_.Pages(5)}); }
    again = true;
    const absl::Status activated = cache.Activate(reader, key, 8, Access::kRead);
    EXPECT_TRUE(absl::IsUnavailable(activated)) << activated;
    EXPECT_EQ(mmu.Stats().pfn_caches.count, 0u);
    again = false;
  }
}

TEST_F(PfnCacheTest, ADeactivatedCacheIsUnlistedAndComesBack) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  cache_.Deactivate();
  EXPECT_FALSE(Valid());
  EXPECT_EQ(Stats().count, 0u);
  Invalidate(5);
  EXPECT_EQ(Stats().precheck_overlaps, 0u);
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  EXPECT_TRUE(Valid());
}

TEST_F(PfnCacheTest, HitsAndMissesAreCounted) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  EXPECT_TRUE(Valid());
  EXPECT_TRUE(Valid());
  Invalidate(5);
  EXPECT_FALSE(Valid());
  EXPECT_EQ(Stats().hits, 2u);
  EXPECT_EQ(Stats().misses, 1u);
}

TEST_F(PfnCacheTest, AUsedCacheIsYoungUntilItIsAged) {
  ASSERT_TRUE(Activate(host_.PageAt(5)).ok());
  EXPECT_TRUE(Valid());
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), false));
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  EXPECT_FALSE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  EXPECT_TRUE(Valid());
  EXPECT_FALSE(mmu_.notifier().TestClearYoung(host_.Pages(6), true));
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
}

TEST_F(PfnCacheTest, ACacheThatEndsWhileActiveIsABug) {
  EXPECT_DEATH(
      {
        PfnCache doomed(mmu_, "doomed");
        static_cast<void>(doomed.Activate(reader_, GpaAt(5), 64, Access::kRead));
      },
      "ended while active");
}

TEST_F(PfnCacheTest, ARefreshInsideAReadSectionIsABug) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  CacheSection section = cache_.Check(reader_);
  EXPECT_DEATH(static_cast<void>(cache_.Refresh(reader_)), "a refresh inside a read section");
  EXPECT_DEATH(static_cast<void>(Activate(GpaAt(6))), "an activation inside a read section");
}

// The index: what an invalidation finds.
using PfnCacheIndexTest = PfnCacheTest;

TEST_F(PfnCacheIndexTest, APrecheckThatFindsNothingEndsTheSearch) {
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  Invalidate(9);
  EXPECT_EQ(Stats().prechecks, 1u);
  EXPECT_EQ(Stats().precheck_overlaps, 0u);
  EXPECT_EQ(Stats().invalidations, 0u);
  Invalidate(5);
  EXPECT_EQ(Stats().prechecks, 2u);
  EXPECT_EQ(Stats().precheck_overlaps, 1u);
  EXPECT_EQ(Stats().invalidations, 1u);
}

TEST_F(PfnCacheIndexTest, ACacheThatBeginsBeforeTheRangeIsFound) {
  for (uint64_t pages = 1; pages <= PfnCache::kMaxPages; ++pages) {
    ASSERT_TRUE(Activate(GpaAt(5), pages * kPageSize).ok());
    Invalidate(5 + pages - 1);
    EXPECT_FALSE(Valid()) << pages;
    ASSERT_EQ(cache_.Refresh(reader_), RefreshOutcome::kValid);
    Invalidate(5 + pages);
    EXPECT_TRUE(Valid()) << pages;
  }
}

TEST_F(PfnCacheIndexTest, CachesOfOnePageAreAllFound) {
  PfnCache second(mmu_, "second");
  PfnCache third(mmu_, "third");
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  ASSERT_TRUE(second.Activate(reader_, host_.PageAt(5) + 100, 8, Access::kRead).ok());
  ASSERT_TRUE(third.Activate(reader_, GpaAt(6), 8, Access::kRead).ok());
  EXPECT_EQ(Stats().count, 3u);
  Invalidate(5);
  EXPECT_FALSE(Valid());
  EXPECT_FALSE(second.Check(reader_));
  EXPECT_TRUE(third.Check(reader_));
  second.Deactivate();
  third.Deactivate();
}

TEST_F(PfnCacheIndexTest, EachListedCacheIsVisitedOnce) {
  PfnCache second(mmu_, "second");
  ASSERT_TRUE(Activate(GpaAt(5)).ok());
  ASSERT_TRUE(second.Activate(reader_, host_.PageAt(5), 8, Access::kWrite).ok());
  int visited = 0;
  mmu_.caches().ForEach([&](const PfnCache& cache) {
    ++visited;
    EXPECT_TRUE(cache.Describe().valid);
  });
  EXPECT_EQ(visited, 2);
  second.Deactivate();
}

}  // namespace
}  // namespace underfoot::testing
