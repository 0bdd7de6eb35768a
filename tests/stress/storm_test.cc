// Storms: many brackets at once, and what must not suffer from them (I3, I9).

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "mmu/pfn_cache.h"
#include "tests/stress/moving_world.h"

namespace underfoot::testing {
namespace {

HvaRange Pages(uint64_t first, uint64_t count) {
  return {{first * kPageSize}, {(first + count) * kPageSize}};
}

// Each thread has pages of its own, and so knows what the set must say about them.
TEST(StormTest, TheSetInFlightIsPreciseUnderAStorm) {
  constexpr int kThreads = 4;
  constexpr uint64_t kOwn = 1000;
  Squad squad;
  InFlightRanges ranges;
  std::atomic<uint64_t> brackets{0};
  std::atomic<uint64_t> missed{0};
  std::atomic<uint64_t> imagined{0};
  for (int thread = 0; thread < kThreads; ++thread) {
    squad.Add([&, first = kOwn * static_cast<uint64_t>(thread)](Random& random) {
      while (!squad.Stopped()) {
        std::vector<InFlightRanges::Place> places;
        const uint64_t count = 1 + random.Below(random.Chance(1, 50) ? 100 : 4);
        for (uint64_t i = 0; i < count; ++i) places.push_back(ranges.Add(Pages(first + 2 * i, 1)));
        for (uint64_t i = 0; i < count; ++i) {
          missed += !ranges.FindOverlap(Pages(first + 2 * i, 1)).has_value();
          imagined += ranges.FindOverlap(Pages(first + 2 * i + 1, 1)).has_value();
        }
        for (const auto& place : places) ranges.Remove(place);
        imagined += ranges.FindOverlap(Pages(first, kOwn)).has_value();
        brackets += count;
      }
    });
  }
  // Waits for whatever it meets: every wait must end.
  squad.Add([&](Random&) {
    while (!squad.Stopped()) {
      if (const auto bracket = ranges.FindOverlap(Pages(0, kOwn * kThreads))) {
        ranges.WaitForEnd(*bracket);
      }
    }
  });
  EXPECT_TRUE(squad.Run([&] { return brackets > 1000; }));
  EXPECT_EQ(missed.load(), 0u);
  EXPECT_EQ(imagined.load(), 0u);
  EXPECT_EQ(ranges.count(), 0u);
}

class StormOfBracketsTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(world_.Breach(), "");
    EXPECT_EQ(world_.WhatIsLeft(), "");
  }
  // Brackets of `range`, one after the other.
  void AddStorm(HvaRange range) {
    squad_.Add([this, range](Random&) {
      while (!squad_.Stopped()) {
        InvalidationScope scope(world_.mmu().notifier(), {range, InvalidationKind::kUnmap});
        ++brackets_;
      }
    });
  }

  Squad squad_;
  MovingWorld world_{squad_};
  std::atomic<uint64_t> brackets_{0};
};

TEST_F(StormOfBracketsTest, UnrelatedBracketsCauseNoRetry) {
  AddStorm(world_.host().Pages(0, 4));
  AddStorm(world_.host().Pages(40, 10));
  Reader main_reader(world_.mmu().readers());
  PfnCache cache(world_.mmu(), "unrelated");
  const auto key = GpaOf(MovingWorld::kFirstGfn + 20);
  std::atomic<uint64_t> refreshes{0};
  std::atomic<uint64_t> retried{0};
  squad_.Add([&](Random&) {
    Reader reader(world_.mmu().readers());
    while (!squad_.Stopped()) {
      if (!cache.Activate(reader, key, kPageSize, Access::kRead).ok()) std::abort();
      cache.Deactivate();
      const Gfn gfn = MovingWorld::kFirstGfn + 21;
      const FaultOutcome outcome =
          world_.mmu().faults().HandleFault(reader, gfn, Access::kRead).outcome;
      retried += outcome != FaultOutcome::kMapped;
      MmuGather gather;
      world_.mmu().stage2().Unmap({gfn, gfn + 1}, gather);
      world_.mmu().stage2().Finish(gather);
      ++refreshes;
    }
  });
  EXPECT_TRUE(squad_.Run([&] { return refreshes > 100 && brackets_ > 100; }));
  EXPECT_EQ(world_.mmu().Stats().pfn_caches.refresh_retries, 0u);
  EXPECT_EQ(retried.load(), 0u);
}

// At every moment a bracket is open, so a rule that waits for none to be in flight never ends.
TEST_F(StormOfBracketsTest, UpdatesEndUnderBracketsThatAlwaysOverlap) {
  constexpr uint32_t kSecond = 1;
  std::atomic<uint64_t> updates{0};
  std::atomic<uint64_t> turn{0};
  for (uint64_t me = 0; me < 2; ++me) {
    squad_.Add([this, &turn, me](Random&) {
      // Ends its bracket only after the other has begun one.
      while (!squad_.Stopped()) {
        InvalidationScope scope(world_.mmu().notifier(),
                                {world_.host().range(), InvalidationKind::kUnmap});
        ++brackets_;
        turn = me;
        while (turn == me && !squad_.Stopped()) std::this_thread::yield();
      }
    });
  }
  squad_.Add([&](Random&) {
    while (!squad_.Stopped()) {
      if (!world_.mmu()
               .CreateMemslot(
                   {.id = kSecond, .gfns = {{0x9000}, {0x9010}}, .hva = world_.host().PageAt(0)})
               .ok() ||
          !world_.mmu().DeleteMemslot(kSecond).ok()) {
        std::abort();
      }
      ++updates;
    }
  });
  EXPECT_TRUE(squad_.Run([&] { return updates > 100 && brackets_ > 100; }));
}

// After Unregister has returned, no thread is inside the subscriber, and none enters it again.
TEST_F(StormOfBracketsTest, SubscribersComeAndGo) {
  class Guest final : public Subscriber {
   public:
    bool Invalidate(const Invalidation&) override {
      if (!welcome) ++trespasses;
      ++begins;
      return true;
    }
    void AfterInvalidate(const Invalidation&) override {
      if (!welcome) ++trespasses;
    }
    bool TestClearYoung(HvaRange, bool) override { return !welcome; }
    void OnEnd(HvaRange) override {
      if (!welcome) ++trespasses;
    }
    bool welcome = false;  // plain: the notifier orders it, or does not
    std::atomic<uint64_t> trespasses{0};
    std::atomic<uint64_t> begins{0};
  };
  AddStorm(world_.host().Pages(0, 4));
  AddStorm(world_.host().Pages(2, 4));
  Guest guest;
  std::atomic<uint64_t> visits{0};
  squad_.Add([&](Random&) {
    while (!squad_.Stopped()) {
      guest.welcome = true;
      world_.mmu().notifier().Register(guest);
      world_.mmu().notifier().Unregister(guest);
      guest.welcome = false;
      ++visits;
    }
  });
  EXPECT_TRUE(squad_.Run([&] { return visits > 10 && guest.begins > 0; }));
  EXPECT_EQ(guest.trespasses.load(), 0u);
}

}  // namespace
}  // namespace underfoot::testing
