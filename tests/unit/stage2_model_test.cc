// Random operations of one thread on stage-2 do what they do to a std::map.

#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/stage2/stage2.h"
#include "tests/support/random.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kModelPages = 3 * PagesAt(1);
// So that the range crosses a boundary of 1 GiB, and three tables of 4K entries.
constexpr Gfn kModelFirst{PagesAt(2) - PagesAt(1)};

struct ModelPage {
  Pfn pfn;
  bool writable = false;
  bool dirty = false;
};

class Stage2ModelTest : public ::testing::Test {
 protected:
  GfnRange RandomRange() {
    // Short ranges, ranges of about a block, and whole blocks.
    const uint64_t longest = random_.Chance(1, 2) ? 8 : PagesAt(1) + 50;
    uint64_t begin = random_.Below(kModelPages);
    uint64_t end = std::min(kModelPages, begin + 1 + random_.Below(longest));
    if (random_.Chance(1, 8)) {
      begin &= ~(PagesAt(1) - 1);
      end = begin + PagesAt(1);
    }
    return {kModelFirst + begin, kModelFirst + end};
  }

  void MapOne() {
    const unsigned level = random_.Chance(1, 20) ? 1 : 0;
    const Gfn gfn = EntryRange(kModelFirst + random_.Below(kModelPages), level).begin;
    const GfnRange covers{gfn, gfn + PagesAt(level)};
    const Access access = random_.Chance(1, 2) ? Access::kWrite : Access::kRead;
    const Pfn pfn{random_.Below(uint64_t{1} << 30)};
    const ClaimResult claim = stage2_.TryClaim(gfn, level, access, kMe);
    const bool all_absent = model_.lower_bound(covers.begin) == model_.lower_bound(covers.end);
    const auto first = model_.find(gfn);
    switch (claim.outcome) {
      case ClaimOutcome::kClaimed:
        break;
      case ClaimOutcome::kPresent:
        ASSERT_NE(first, model_.end());
        ASSERT_TRUE(access == Access::kRead || first->second.writable);
        return;
      case ClaimOutcome::kTable:
        ASSERT_EQ(level, 1u);
        ASSERT_FALSE(all_absent);
        return;
      case ClaimOutcome::kBusy:
        FAIL() << "there is no other thread";
    }
    if (random_.Chance(1, 10)) {
      stage2_.Abandon(gfn, kMe);
      return;
    }
    // A relax keeps the frames; a new leaf brings its own.
    const bool relax = !all_absent;
    const Pfn base = relax ? first->second.pfn : pfn;
    ASSERT_TRUE(stage2_.Publish(gfn, kMe, Pte::Leaf(base, access)));
    for (uint64_t i = 0; i < PagesAt(level); ++i) {
      ModelPage& page = model_[gfn + i];
      page = {base + i, access == Access::kWrite, relax && page.dirty};
    }
  }

  void UnmapSome() {
    const GfnRange range = RandomRange();
    MmuGather gather;
    stage2_.Unmap(range, gather);
    const auto begin = model_.lower_bound(range.begin);
    const auto end = model_.lower_bound(range.end);
    ASSERT_EQ(stage2_.Finish(gather), begin != end);  // I7
    model_.erase(begin, end);
  }

  void ProtectSome() {
    const GfnRange range = RandomRange();
    MmuGather gather;
    stage2_.WriteProtect(range, gather);
    bool any = false;
    for (auto it = model_.lower_bound(range.begin); it != model_.lower_bound(range.end); ++it) {
      any = any || it->second.writable;
      it->second.writable = false;
    }
    ASSERT_EQ(stage2_.Finish(gather), any);
  }

  void WriteOne() {
    const Gfn gfn = kModelFirst + random_.Below(kModelPages);
    rcu::ReadScope rcu;
    const auto leaf = stage2_.Use(gfn, Access::kWrite);
    if (!leaf.has_value()) return;
    const GfnRange covers = EntryRange(gfn, leaf->level);
    for (Gfn page = covers.begin; page < covers.end; page += 1) model_[page].dirty = true;
  }

  void Compare() {
    ASSERT_EQ(WhatIsWrongWith(stage2_), "");
    uint64_t pages = 0;
    for (const RawEntry& leaf : ReadTables(stage2_).leaves) {
      for (uint64_t i = 0; i < PagesAt(leaf.level); ++i, ++pages) {
        const auto page = model_.find(leaf.gfn + i);
        ASSERT_NE(page, model_.end()) << leaf.gfn.value + i;
        ASSERT_EQ(page->second.pfn, leaf.pte.pfn() + i);
        ASSERT_EQ(page->second.writable, leaf.pte.writable());
        ASSERT_EQ(page->second.dirty, leaf.pte.dirty());
      }
    }
    ASSERT_EQ(pages, model_.size());
  }

  Random random_;
  Stage2 stage2_;
  std::map<Gfn, ModelPage> model_;
};

TEST_F(Stage2ModelTest, RandomOperationsEqualAMap) {
  uint64_t most = 0;
  for (int round = 0; round < 20000; ++round) {
    const uint64_t kind = random_.Below(100);
    if (kind < 60) {
      MapOne();
    } else if (kind < 75) {
      UnmapSome();
    } else if (kind < 85) {
      ProtectSome();
    } else {
      WriteOne();
    }
    if (round % 10 == 0) Compare();
    if (HasFatalFailure()) return;
    most = std::max<uint64_t>(most, model_.size());
  }
  EXPECT_GT(most, PagesAt(1)) << "the model never held a block";
}

}  // namespace
}  // namespace underfoot::testing
