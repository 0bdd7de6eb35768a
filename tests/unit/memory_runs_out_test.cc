// Memory runs out in the middle of an operation: nothing that it had taken may be left, and the
// operation that follows finds everything as it was.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "mmu/range_fault.h"
#include "tests/support/no_memory.h"
#include "tests/support/wait_until.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kFirst{4 * k2M};

class MemoryRunsOutTest : public ::testing::Test {
 protected:
  MemoryRunsOutTest() {
    const absl::Status created = mmu_.CreateMemslot({.id = 1,
                                                     .gfns = {kFirst, kFirst + k2M},
                                                     .hva = host_.range().begin,
                                                     .flags = {.log_dirty = true}});
    EXPECT_TRUE(created.ok()) << created;
  }
  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  }

  void MapBlock() {
    ASSERT_EQ(mmu_.range_faults().FaultIn(reader_, {kFirst, kFirst + k2M}, Access::kWrite).outcome,
              FaultInOutcome::kMapped);
    rcu::ReadScope rcu;
    ASSERT_EQ(mmu_.stage2().Lookup(kFirst)->level, 1u);
  }
  bool Mapped(uint64_t page) {
    rcu::ReadScope rcu;
    return mmu_.stage2().Lookup(kFirst + page).has_value();
  }
  uint64_t Collected() { return mmu_.CollectDirty(1)->count(); }

  // Makes `operation` with ever more memory, until it has enough, and `check` after each time that
  // it had not. Returns how often that was.
  static unsigned RunOutEverywhere(const std::function<void()>& operation,
                                   const std::function<void()>& check) {
    // Tables come from a pool, which seldom allocates: here each of them counts as an allocation.
    SetSyncPoint("table-memory", [] { NoMemory::Allocate(); });
    unsigned failed = 0;
    for (;; ++failed) {
      try {
        const NoMemory no_memory(failed);
        operation();
        break;
      } catch (const std::bad_alloc&) {
        SCOPED_TRACE("allocations that succeeded: " + std::to_string(failed));
        check();
      }
    }
    ClearSyncPoints();
    return failed;
  }

  uint64_t Generation() { return mmu_.Stats().memslots.generation; }
  std::optional<Memslot> SlotOf(Gfn gfn) { return mmu_.memslots().Find(gfn); }

  FakeHost host_{k2M};
  Mmu mmu_{host_};
  Reader reader_{mmu_.readers()};
};

TEST_F(MemoryRunsOutTest, AClaimThatFindsNoMemoryHasTakenNothing) {
  for (unsigned tables = 0; tables < 3; ++tables) {
    auto left = std::make_shared<unsigned>(tables);
    SetSyncPoint("table-memory", [left] {
      if ((*left)-- == 0) throw std::bad_alloc();
    });
    EXPECT_THROW(static_cast<void>(mmu_.faults().HandleFault(reader_, kFirst, Access::kRead)),
                 std::bad_alloc);
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "") << tables;
  }
  EXPECT_EQ(mmu_.faults().FaultIn(reader_, kFirst, Access::kRead).outcome, FaultInOutcome::kMapped);
}

TEST_F(MemoryRunsOutTest, ABlockThatCannotBeSplitForAnUnmapGoesWhole) {
  MapBlock();
  SetSyncPoint("table-memory", [] { throw std::bad_alloc(); });
  {
    InvalidationScope bracket(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kUnmap});
    EXPECT_TRUE(bracket.found());
    EXPECT_FALSE(Mapped(5));
  }
  EXPECT_FALSE(Mapped(6));
  EXPECT_EQ(Collected(), k2M);  // what was written in it is still known
}

TEST_F(MemoryRunsOutTest, ABlockThatCannotBeSplitForAProtectionGoesWhole) {
  MapBlock();
  SetSyncPoint("table-memory", [] { throw std::bad_alloc(); });
  InvalidationScope bracket(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kProtect});
  EXPECT_TRUE(bracket.found());
  EXPECT_FALSE(Mapped(5));
}

// The readers of its other pages are of no bracket, and a later one finds no leaf of theirs.
TEST_F(MemoryRunsOutTest, ALaterBeginLooksForReadersOfABlockThatWentWhole) {
  MapBlock();
  SetSyncPoint("table-memory", [] { throw std::bad_alloc(); });
  TranslatedPage page = mmu_.Translate(reader_, GpaOf(kFirst + 9), Access::kRead);
  ASSERT_TRUE(page);
  { InvalidationScope bracket(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kUnmap}); }
  bool waited = false;
  SetSyncPoint("reader-wait", [&] {
    waited = true;
    page = {};
  });
  { InvalidationScope bracket(mmu_.notifier(), {host_.Pages(9), InvalidationKind::kUnmap}); }
  EXPECT_TRUE(waited);
}

// The page source may run out of memory as well.
TEST_F(MemoryRunsOutTest, AClaimWhosePageInThrowsIsGivenBack) {
  host_.SetAnswer([](Hva, Access) -> std::optional<PageInResult> { throw std::bad_alloc(); });
  EXPECT_THROW(static_cast<void>(mmu_.faults().HandleFault(reader_, kFirst, Access::kRead)),
               std::bad_alloc);
  EXPECT_THROW(static_cast<void>(mmu_.faults_around().HandleFault(
                   reader_, kFirst + 3, {kFirst, kFirst + 8}, Access::kRead)),
               std::bad_alloc);
  EXPECT_THROW(static_cast<void>(mmu_.faults_around().BringIn(reader_, {kFirst, kFirst + 8})),
               std::bad_alloc);
  EXPECT_THROW(static_cast<void>(
                   mmu_.range_faults().FaultIn(reader_, {kFirst, kFirst + k2M}, Access::kRead)),
               std::bad_alloc);
  EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  EXPECT_EQ(mmu_.Stats().stage2.tables, 1u) << "a claim keeps its table";
}

// Pages that are no block get a table of their own, when all of them have been brought in.
TEST_F(MemoryRunsOutTest, AClaimOfABlockIsGivenBackIfThereIsNoTableForItsPages) {
  host_.Move(host_.Pages(7));
  const GfnRange block{kFirst, kFirst + k2M};
  RangeFaultResult result{FaultInOutcome::kFailed, {}};
  const unsigned failed =
      RunOutEverywhere([&] { result = mmu_.range_faults().FaultIn(reader_, block, Access::kRead); },
                       [&] {
                         EXPECT_EQ(mmu_.Stats().stage2.tables, 1u) << "a claim keeps its table";
                         EXPECT_FALSE(Mapped(0));
                       });
  // In the process's first test a chunk of table memory is allocated as well.
  EXPECT_GE(failed, 3u);
  EXPECT_EQ(result.outcome, FaultInOutcome::kMapped);
  EXPECT_TRUE(Mapped(7));
}

TEST_F(MemoryRunsOutTest, AMemslotThatCannotBeAddedIsNotThere) {
  const uint64_t before = Generation();
  const MemslotConfig other{
      .id = 2, .gfns = {Gfn{0}, Gfn{8}}, .hva = host_.range().begin, .flags = {.log_dirty = true}};
  const unsigned failed = RunOutEverywhere([&] { ASSERT_TRUE(mmu_.CreateMemslot(other).ok()); },
                                           [&] {
                                             EXPECT_EQ(Generation(), before);
                                             EXPECT_FALSE(SlotOf(Gfn{0}).has_value());
                                           });
  EXPECT_GE(failed, 4u);
  EXPECT_TRUE(SlotOf(Gfn{0}).has_value());
}

TEST_F(MemoryRunsOutTest, AMemslotThatCannotBeDeletedStaysAndItsLeavesToo) {
  MapBlock();
  const uint64_t before = Generation();
  const unsigned failed = RunOutEverywhere([&] { ASSERT_TRUE(mmu_.DeleteMemslot(1).ok()); },
                                           [&] {
                                             EXPECT_EQ(Generation(), before);
                                             EXPECT_TRUE(SlotOf(kFirst).has_value());
                                             EXPECT_TRUE(Mapped(0));
                                           });
  EXPECT_GE(failed, 3u);
  EXPECT_FALSE(SlotOf(kFirst).has_value());
  EXPECT_FALSE(Mapped(0));
}

TEST_F(MemoryRunsOutTest, AMemslotThatCannotBeMovedStaysWhereItIsAndItsLeavesToo) {
  MapBlock();
  const uint64_t before = Generation();
  const unsigned failed = RunOutEverywhere([&] { ASSERT_TRUE(mmu_.MoveMemslot(1, Gfn{0}).ok()); },
                                           [&] {
                                             EXPECT_EQ(Generation(), before);
                                             EXPECT_TRUE(SlotOf(kFirst).has_value());
                                             EXPECT_FALSE(SlotOf(Gfn{0}).has_value());
                                             EXPECT_TRUE(Mapped(0));
                                           });
  EXPECT_GE(failed, 4u);
  EXPECT_EQ(SlotOf(Gfn{0})->gfns.size(), k2M);
  EXPECT_FALSE(SlotOf(kFirst).has_value());
  EXPECT_EQ(Collected(), k2M) << "the log moves along";
}

TEST_F(MemoryRunsOutTest, FlagsThatCannotBeSetAreAsTheyWere) {
  ASSERT_TRUE(mmu_.SetMemslotFlags(1, {}).ok());
  MapBlock();
  const MemslotFlags other{.read_only = true, .log_dirty = true};
  const uint64_t before = Generation();
  const unsigned failed =
      RunOutEverywhere([&] { ASSERT_TRUE(mmu_.SetMemslotFlags(1, other).ok()); },
                       [&] {
                         EXPECT_EQ(Generation(), before);
                         EXPECT_EQ(SlotOf(kFirst)->flags, MemslotFlags{});
                         rcu::ReadScope rcu;
                         EXPECT_TRUE(mmu_.stage2().Lookup(kFirst)->pte.writable());
                       });
  EXPECT_GE(failed, 3u);
  EXPECT_EQ(SlotOf(kFirst)->flags, other);
  EXPECT_EQ(Collected(), 0u);
}

TEST_F(MemoryRunsOutTest, ACollectionThatFindsNoMemoryLosesNothing) {
  MapBlock();
  uint64_t collected = 0;
  EXPECT_GE(RunOutEverywhere([&] { collected = mmu_.CollectDirty(1)->count(); }, [] {}), 1u);
  EXPECT_EQ(collected, k2M);
}

TEST_F(MemoryRunsOutTest, ACacheThatCannotBeActivatedIsInactiveAndUnlisted) {
  PfnCache cache(mmu_, "cache");
  const unsigned failed = RunOutEverywhere(
      [&] { ASSERT_TRUE(cache.Activate(reader_, GpaOf(kFirst + 5), 8, Access::kRead).ok()); },
      [&] {
        EXPECT_EQ(mmu_.Stats().pfn_caches.count, 0u);
        EXPECT_FALSE(cache.Describe().pending);
        EXPECT_EQ(cache.Refresh(reader_), RefreshOutcome::kInactive);
      });
  EXPECT_GE(failed, 3u);
  EXPECT_TRUE(cache.Describe().valid);
  cache.Deactivate();
}

TEST_F(MemoryRunsOutTest, ACacheThatCannotBeRefreshedIsInvalidAndComesBack) {
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaOf(kFirst + 5), 8, Access::kRead).ok());
  { InvalidationScope bracket(mmu_.notifier(), {host_.Pages(5)}); }
  RefreshOutcome outcome = RefreshOutcome::kFailed;
  const unsigned failed = RunOutEverywhere([&] { outcome = cache.Refresh(reader_); },
                                           [&] {
                                             EXPECT_FALSE(cache.Describe().pending);
                                             EXPECT_FALSE(cache.Describe().valid);
                                             EXPECT_EQ(mmu_.Stats().pfn_caches.count, 1u);
                                           });
  EXPECT_GE(failed, 3u);
  EXPECT_EQ(outcome, RefreshOutcome::kValid);
  cache.Deactivate();
}

class CountingSubscriber final : public Subscriber {
 public:
  bool Invalidate(const Invalidation&) override {
    ++begins;
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }
  unsigned begins = 0;
};

TEST_F(MemoryRunsOutTest, ASubscriberThatCannotBeRegisteredGetsNoBeginAndItsEndNeedsNoMemory) {
  CountingSubscriber subscriber;
  const auto bracket_page = [&] { InvalidationScope bracket(mmu_.notifier(), {host_.Pages(1)}); };
  EXPECT_GE(RunOutEverywhere([&] { mmu_.notifier().Register(subscriber); },
                             [&] {
                               bracket_page();
                               EXPECT_EQ(subscriber.begins, 0u);
                             }),
            3u);
  bracket_page();
  EXPECT_EQ(subscriber.begins, 1u);
  {
    const NoMemory no_memory(0);
    mmu_.notifier().Unregister(subscriber);
    EXPECT_EQ(no_memory.failures(), 0u);
  }
  bracket_page();
  EXPECT_EQ(subscriber.begins, 1u);
}

// The set of ranges in flight grows by 64. If it cannot, no Begin is lost: the bracket is in flight
// for every range.
TEST_F(MemoryRunsOutTest, ABeginThatFindsNoWordIsInFlightForEveryRange) {
  ASSERT_EQ(mmu_.faults().FaultIn(reader_, kFirst + 3, Access::kRead).outcome,
            FaultInOutcome::kMapped);
  std::vector<BracketToken> others(64);
  for (BracketToken& other : others) other = mmu_.notifier().Begin({host_.Pages(500)});
  BracketToken token;
  {
    const NoMemory no_memory(0);
    token = mmu_.notifier().Begin({host_.Pages(3)});
    EXPECT_GT(no_memory.failures(), 0u);
  }
  EXPECT_EQ(mmu_.in_flight().count(), 65u);
  EXPECT_FALSE(Mapped(3));
  EXPECT_EQ(mmu_.faults().HandleFault(reader_, kFirst + 3, Access::kRead).outcome,
            FaultOutcome::kBlocked);
  EXPECT_EQ(mmu_.faults().HandleFault(reader_, kFirst + 9, Access::kRead).outcome,
            FaultOutcome::kBlocked);
  const auto met = mmu_.in_flight().FindOverlap(host_.Pages(3));
  ASSERT_TRUE(met.has_value());
  EXPECT_TRUE(mmu_.in_flight().InFlight(*met));
  std::atomic<bool> mapped{false};
  SetSyncPoint("wait-for-end", [&] { mapped = Mapped(3); });
  std::thread waiter([&] {
    Reader reader(mmu_.readers());
    EXPECT_EQ(mmu_.faults().FaultIn(reader, kFirst + 3, Access::kRead).outcome,
              FaultInOutcome::kMapped);
  });
  mmu_.notifier().End(token);
  waiter.join();
  EXPECT_FALSE(mapped);
  EXPECT_FALSE(mmu_.in_flight().InFlight(*met));
  EXPECT_EQ(mmu_.faults().HandleFault(reader_, kFirst + 9, Access::kRead).outcome,
            FaultOutcome::kMapped);
  for (BracketToken& other : others) mmu_.notifier().End(other);
  EXPECT_EQ(mmu_.in_flight().count(), 0u);
}

// Of two brackets without a word, the second must wait for the readers that the first has found.
TEST_F(MemoryRunsOutTest, ABracketWithoutAWordIsSeenByAnotherOne) {
  ASSERT_EQ(mmu_.faults().FaultIn(reader_, kFirst + 3, Access::kRead).outcome,
            FaultInOutcome::kMapped);
  std::vector<BracketToken> others(64);
  for (BracketToken& other : others) other = mmu_.notifier().Begin({host_.Pages(500)});
  TranslatedPage page = mmu_.Translate(reader_, GpaOf(kFirst + 3), Access::kRead);
  ASSERT_TRUE(page);
  unsigned waits = 0;
  SetSyncPoint("reader-wait", [&] {
    ++waits;
    page = {};
  });
  BracketToken first;
  BracketToken second;
  {
    const NoMemory no_memory(0);
    // As the thread that reads userfaultfd, which never waits (R1).
    first = mmu_.notifier().Begin({host_.Pages(3)}, ReaderWait::kNoWait);
    second = mmu_.notifier().Begin({host_.Pages(3)});
  }
  EXPECT_EQ(waits, 1u);
  mmu_.notifier().End(second);
  EXPECT_TRUE(mmu_.in_flight().FindOverlap(host_.Pages(3)).has_value());
  mmu_.notifier().End(first);
  EXPECT_FALSE(mmu_.in_flight().FindOverlap(host_.Pages(3)).has_value());
  for (BracketToken& other : others) mmu_.notifier().End(other);
}

}  // namespace
}  // namespace underfoot::testing
