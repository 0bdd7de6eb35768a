// Torture of the tables: claims, blocks, splits and the death of tables, all at once. Every leaf
// says which gfn it belongs to, so a leaf in a wrong place, or of a table that was freed, is seen.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <thread>

#include "mmu/base/rcu.h"
#include "mmu/stage2/stage2.h"
#include "tests/stress/squad.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kTablePages = 3 * PagesAt(1);
// Crosses a boundary of 1 GiB.
constexpr Gfn kTableFirst{PagesAt(2) - PagesAt(1)};
constexpr uint64_t kTightCap = 16 * sizeof(Table);

class Stage2StressTest : public ::testing::Test {
 protected:
  static GfnRange RandomRange(Random& random) {
    const uint64_t begin = random.Below(kTablePages);
    const uint64_t longest = random.Chance(1, 4) ? kTablePages : 16;
    return {kTableFirst + begin,
            kTableFirst + std::min(kTablePages, begin + 1 + random.Below(longest))};
  }

  void AddInstallers(OwnerTag count) {
    for (OwnerTag tag = 1; tag <= count; ++tag) {
      squad_.Add([this, tag](Random& random) {
        while (!squad_.Stopped()) {
          const unsigned level = random.Chance(1, 32) ? 1 : 0;
          const Gfn gfn = EntryRange(kTableFirst + random.Below(kTablePages), level).begin;
          const Access access = random.Chance(1, 2) ? Access::kWrite : Access::kRead;
          const ClaimOutcome outcome = stage2_.TryClaim(gfn, level, access, tag).outcome;
          if (outcome != ClaimOutcome::kClaimed) continue;
          if (random.Chance(1, 16)) {
            stage2_.Abandon(gfn, tag);
          } else if (stage2_.Publish(gfn, tag, Pte::Leaf({gfn.value}, access))) {
            ++published_;
          } else {
            ++stolen_;
          }
        }
      });
    }
  }

  void AddInvalidators(int count) {
    for (int i = 0; i < count; ++i) {
      squad_.Add([this](Random& random) {
        while (!squad_.Stopped()) {
          MmuGather gather;
          const GfnRange range = RandomRange(random);
          switch (random.Below(4)) {
            case 0:
              stage2_.WriteProtect(range, gather);
              break;
            case 1:
              static_cast<void>(stage2_.TestClearYoung(range, true));
              break;
            default:
              stage2_.Unmap(range, gather);
          }
          stage2_.Finish(gather);
          ++invalidated_;
        }
      });
    }
  }

  void AddWalkers(int count) {
    for (int i = 0; i < count; ++i) {
      squad_.Add([this](Random& random) {
        while (!squad_.Stopped()) {
          const Gfn gfn = kTableFirst + random.Below(kTablePages);
          rcu::ReadScope rcu;
          const std::optional<Stage2::Leaf> leaf = stage2_.Use(gfn, Access::kRead);
          if (!leaf.has_value()) continue;
          ++found_;
          if (leaf->pte.pfn().value != EntryRange(gfn, leaf->level).begin.value) {
            ++misplaced_;
            squad_.Stop();
          }
        }
      });
    }
  }

  void RunAndCheck(const std::function<bool()>& enough) {
    EXPECT_TRUE(squad_.Run([&] { return invalidated_ > 100 && enough(); }));
    EXPECT_EQ(misplaced_.load(), 0u);
    EXPECT_EQ(WhatIsWrongWith(stage2_), "");
    for (const RawEntry& leaf : ReadTables(stage2_).leaves) {
      ASSERT_EQ(leaf.pte.pfn().value, leaf.gfn.value);
    }
    rcu::Barrier();
    EXPECT_EQ(stage2_.RetiredStats().pending_tables, 0u);
    EXPECT_EQ(stage2_.RetiredStats().retired, stage2_.RetiredStats().freed);
  }

  Squad squad_;
  Stage2 stage2_{kTightCap};
  std::atomic<uint64_t> published_{0};
  std::atomic<uint64_t> stolen_{0};
  std::atomic<uint64_t> invalidated_{0};
  std::atomic<uint64_t> found_{0};
  std::atomic<uint64_t> misplaced_{0};
};

TEST_F(Stage2StressTest, LeavesAndTablesAreCountedAndInTheirPlaces) {
  AddInstallers(2);
  AddInvalidators(2);
  AddWalkers(1);
  RunAndCheck(
      [&] { return published_ > 1000 && found_ > 1000 && stage2_.RetiredStats().retired > 10; });
}

TEST_F(Stage2StressTest, InstallersOfTheSamePagesMerge) {
  AddInstallers(4);
  AddInvalidators(1);
  RunAndCheck([&] { return published_ > 1000; });
}

// The backlog may exceed the cap by what the threads were about to hand over, and no more.
TEST_F(Stage2StressTest, TheBacklogStaysBelowItsCap) {
  constexpr int kThreads = 3;
  std::atomic<uint64_t> highest{0};
  for (OwnerTag tag = 1; tag <= kThreads; ++tag) {
    squad_.Add([this, tag](Random&) {
      const Gfn gfn{uint64_t{tag} << 30};
      while (!squad_.Stopped()) {
        if (stage2_.TryClaim(gfn, 0, Access::kRead, tag).outcome != ClaimOutcome::kClaimed)
          continue;
        if (stage2_.Publish(gfn, tag, Pte::Leaf({gfn.value}, Access::kRead))) ++published_;
        MmuGather gather;
        stage2_.Unmap({gfn, gfn + 1}, gather);
        stage2_.Finish(gather);
        ++invalidated_;
      }
    });
  }
  squad_.Add([&](Random&) {
    while (!squad_.Stopped()) {
      // Retired by now, less what is freed a moment later: never more than the backlog was.
      const uint64_t retired = stage2_.RetiredStats().retired;
      const uint64_t freed = stage2_.RetiredStats().freed;
      if (retired > freed) highest = std::max(highest.load(), (retired - freed) * sizeof(Table));
      rcu::ReadScope rcu;  // stalls grace periods for a moment
      std::this_thread::yield();
    }
  });
  RunAndCheck([&] { return highest > 0; });
  constexpr uint64_t kTablesOfOneWalk = 3;
  EXPECT_LE(highest.load(), kTightCap + kThreads * kTablesOfOneWalk * sizeof(Table));
}

}  // namespace
}  // namespace underfoot::testing
