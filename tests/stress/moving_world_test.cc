// Torture of the whole library: readers, installers, caches and memslots while memory moves.

#include "tests/stress/moving_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "mmu/pfn_cache.h"

namespace underfoot::testing {
namespace {

class MovingWorldTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(world_.Breach(), "");
    EXPECT_EQ(world_.WhatIsLeft(), "");
    const MmuStats stats = world_.mmu().Stats();
    std::printf("checks %lu, writes %lu, moves %lu, waits %lu, retries %lu, refreshes %lu + %lu\n",
                world_.checks.load(), world_.writes.load(), world_.moves.load(),
                stats.pfn_caches.reader_waits, stats.stage2.walk_retries,
                stats.pfn_caches.refreshes, stats.pfn_caches.refresh_retries);
  }

  void AddReaders(int count) {
    for (int i = 0; i < count; ++i) {
      squad_.Add([this](Random& random) {
        Reader reader(world_.mmu().readers());
        while (!squad_.Stopped()) {
          const Gpa gpa = world_.RandomGpa(random);
          if (TranslatedPage page = world_.mmu().Translate(reader, gpa, Access::kRead)) {
            world_.CheckPage(page.data(), page.pfn());
            continue;
          }
          const auto fault = world_.mmu().faults().FaultIn(reader, GfnOf(gpa), Access::kRead);
          if (fault.outcome == FaultInOutcome::kMapped) ++mapped_;
        }
      });
    }
  }

  void AddWriters(unsigned count) {
    for (unsigned writer = 0; writer < count; ++writer) {
      squad_.Add([this, writer](Random& random) {
        Reader reader(world_.mmu().readers());
        while (!squad_.Stopped()) {
          const Gpa gpa = world_.RandomGpa(random);
          if (TranslatedPage page = world_.mmu().Translate(reader, gpa, Access::kWrite)) {
            world_.WriteAndCheck(page.data(), writer);
            continue;
          }
          static_cast<void>(world_.mmu().faults().FaultIn(reader, GfnOf(gpa), Access::kWrite));
        }
      });
    }
  }

  void AddMovers(int count) {
    for (int i = 0; i < count; ++i) {
      squad_.Add([this](Random& random) {
        while (!squad_.Stopped()) world_.MoveSome(random);
      });
    }
  }

  void AddProtectors() {
    squad_.Add([this](Random& random) {
      while (!squad_.Stopped()) {
        world_.ProtectSome(random);
        static_cast<void>(world_.mmu().notifier().TestClearYoung(world_.RandomRange(random), true));
      }
    });
  }

  Squad squad_;
  MovingWorld world_{squad_};
  std::atomic<uint64_t> mapped_{0};
};

TEST_F(MovingWorldTest, TranslationsNeverOutliveABegin) {
  AddReaders(2);
  AddMovers(2);
  EXPECT_TRUE(
      squad_.Run([&] { return world_.checks > 1000 && world_.moves > 100 && mapped_ > 100; }));
}

TEST_F(MovingWorldTest, WritesAreNeitherLostNorMadeUnderProtection) {
  world_.host().GrantOnlyWhatIsAskedFor();
  AddWriters(2);
  AddReaders(1);
  AddMovers(1);
  AddProtectors();
  EXPECT_TRUE(squad_.Run(
      [&] { return world_.writes > 1000 && world_.protects > 100 && world_.moves > 100; }));
}

// Caches of both kinds, shared by threads that check and refresh them, while one of their number is
// given other keys.
TEST_F(MovingWorldTest, CachesNeverServeOldPages) {
  constexpr uint64_t kCaches = 6;
  std::vector<std::unique_ptr<PfnCache>> caches;
  Reader main_reader(world_.mmu().readers());
  const auto key_of = [this](uint64_t i, uint64_t page) -> PfnCache::Key {
    if (i % 2 == 0) return GpaOf(MovingWorld::kFirstGfn + page);
    return world_.host().PageAt(page);
  };
  for (uint64_t i = 0; i < kCaches; ++i) {
    caches.push_back(std::make_unique<PfnCache>(world_.mmu(), "cache" + std::to_string(i)));
    ASSERT_TRUE(
        caches[i]
            ->Activate(main_reader, key_of(i, i * 5), kPageSize * (1 + i % 3), Access::kRead)
            .ok());
  }
  std::atomic<uint64_t> hits{0};
  for (int thread = 0; thread < 2; ++thread) {
    squad_.Add([&](Random& random) {
      Reader reader(world_.mmu().readers());
      while (!squad_.Stopped()) {
        PfnCache& cache = *random.Pick(caches);
        if (CacheSection section = cache.Check(reader)) {
          world_.CheckStays(section.data());
          ++hits;
          continue;
        }
        static_cast<void>(cache.Refresh(reader));
      }
    });
  }
  squad_.Add([&](Random& random) {
    Reader reader(world_.mmu().readers());
    while (!squad_.Stopped()) {
      const uint64_t i = random.Below(2);
      if (random.Chance(1, 4)) caches[i]->Deactivate();
      static_cast<void>(caches[i]->Activate(
          reader, key_of(i, random.Below(MovingWorld::kPages - 2)), kPageSize, Access::kRead));
    }
  });
  AddMovers(2);
  EXPECT_TRUE(squad_.Run([&] { return hits > 1000 && world_.moves > 100; }));
  for (auto& cache : caches) cache->Deactivate();
}

// A second slot lies now over the first half of the memory and now over the second: when its delete
// has returned, no reader uses it.
TEST_F(MovingWorldTest, SlotsComeAndGoUnderTheirReaders) {
  constexpr uint32_t kSecond = 1;
  constexpr uint64_t kHalf = MovingWorld::kPages / 2;
  constexpr Gfn kBase{0x10000};
  // Plain: the slot's updates and the sections on the slot order it, or they do not.
  uint64_t half_now = 0;
  std::atomic<uint64_t> updates{0};
  std::atomic<uint64_t> looks{0};
  const auto create = [&] {
    return world_.mmu().CreateMemslot({.id = kSecond,
                                       .gfns = {kBase, kBase + kHalf},
                                       .hva = world_.host().PageAt(half_now * kHalf)});
  };
  ASSERT_TRUE(create().ok());
  squad_.Add([&](Random&) {
    while (!squad_.Stopped()) {
      // Each place is looked at before it goes, so that deletes meet readers.
      const uint64_t enough = looks.load() + 10;
      while (looks.load() < enough && !squad_.Stopped()) std::this_thread::yield();
      if (!world_.mmu().DeleteMemslot(kSecond).ok()) std::abort();
      half_now = 1 - half_now;
      if (!create().ok()) std::abort();
      ++updates;
    }
  });
  PfnCache cache(world_.mmu(), "moving");
  Reader main_reader(world_.mmu().readers());
  std::atomic<bool> wrong_half{false};
  const auto look = [&](const std::byte* data, uint64_t page) {
    if (HvaOf(data) != world_.host().PageAt(half_now * kHalf + page)) {
      wrong_half = true;
      squad_.Stop();
    }
    world_.CheckStays(data);
    ++looks;
  };
  while (!cache.Activate(main_reader, GpaOf(kBase), kPageSize, Access::kRead).ok()) {
  }
  squad_.Add([&](Random& random) {
    Reader reader(world_.mmu().readers());
    while (!squad_.Stopped()) {
      const uint64_t page = random.Below(kHalf);
      if (TranslatedPage found =
              world_.mmu().Translate(reader, GpaOf(kBase + page), Access::kRead)) {
        look(found.data(), page);
        world_.CheckPage(found.data(), found.pfn());
        continue;
      }
      static_cast<void>(world_.mmu().faults().FaultIn(reader, kBase + page, Access::kRead));
    }
  });
  squad_.Add([&](Random&) {
    Reader reader(world_.mmu().readers());
    while (!squad_.Stopped()) {
      if (CacheSection section = cache.Check(reader)) {
        look(section.data(), 0);
        continue;
      }
      static_cast<void>(cache.Refresh(reader));
    }
  });
  AddMovers(1);
  EXPECT_TRUE(squad_.Run([&] { return updates > 10 && looks > 100; }));
  cache.Deactivate();
  EXPECT_FALSE(wrong_half.load());
}

}  // namespace
}  // namespace underfoot::testing
