#include "mmu/base/rcu.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "mmu/stage2/retired.h"

namespace underfoot::testing {
namespace {

struct Counted : rcu::DeferHead {
  explicit Counted(std::atomic<int>& living_in) : living(living_in) { ++living; }
  ~Counted() { --living; }
  std::atomic<int>& living;
};

TEST(RcuTest, DeferredDeletesHaveRunAfterABarrier) {
  std::atomic<int> living{0};
  for (int i = 0; i < 100; ++i) rcu::DeferDelete(new Counted(living));
  rcu::Barrier();
  EXPECT_EQ(living, 0);
}

TEST(RcuTest, ReadSectionsNestAndTheirThreadCanDetectThem) {
  EXPECT_FALSE(rcu::InReadSection());
  {
    rcu::ReadScope outer;
    { rcu::ReadScope inner; }
    EXPECT_TRUE(rcu::InReadSection());
    std::thread([] { EXPECT_FALSE(rcu::InReadSection()); }).join();
  }
  EXPECT_FALSE(rcu::InReadSection());
}

TEST(RcuTest, ThreadsComeAndGo) {
  std::atomic<int> living{0};
  for (int round = 0; round < 20; ++round) {
    std::thread([&] {
      { rcu::ReadScope rcu; }
      rcu::DeferDelete(new Counted(living));
      rcu::Synchronize();
    }).join();
  }
  rcu::Barrier();
  EXPECT_EQ(living, 0);
}

TEST(RcuTest, WaitingInsideAReadSectionIsABug) {
  EXPECT_DEATH(
      {
        rcu::ReadScope rcu;
        rcu::Synchronize();
      },
      "grace period awaited inside a read section");
}

TEST(RetiredTest, ARetiredBatchIsCountedAndFreed) {
  RetiredTables retired;
  RetiredBatch batch;
  for (int i = 0; i < 3; ++i) batch.Add(new Table(0, 0));
  EXPECT_FALSE(batch.empty());
  {
    rcu::ReadScope rcu;  // so that nothing is freed yet
    retired.HandOver(batch);
    EXPECT_TRUE(batch.empty());
    EXPECT_EQ(retired.Stats().retired, 3u);
    EXPECT_EQ(retired.Stats().pending_tables, 3u);
    EXPECT_EQ(retired.Stats().pending_bytes, 3 * sizeof(Table));
  }
  retired.Drain();
  EXPECT_EQ(retired.Stats().freed, 3u);
  EXPECT_EQ(retired.Stats().pending_tables, 0u);
  EXPECT_EQ(retired.Stats().oldest_us, 0u);
}

TEST(RetiredTest, ABatchThatIsFreedInPlaceIsCountedAndFreed) {
  RetiredTables retired(3 * sizeof(Table));
  RetiredBatch batch;
  for (int i = 0; i < 3; ++i) batch.Add(new Table(0, 0));
  EXPECT_EQ(batch.bytes(), 3 * sizeof(Table));
  retired.FreeAfterGracePeriod(batch);
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.bytes(), 0u);
  EXPECT_EQ(retired.Stats().retired, 3u);
  EXPECT_EQ(retired.Stats().freed, 3u);
  EXPECT_EQ(retired.Stats().pending_tables, 0u);
  EXPECT_EQ(retired.Stats().peak_bytes, 3 * sizeof(Table));
  EXPECT_EQ(retired.Stats().oldest_us, 0u);
  retired.FreeAfterGracePeriod(batch);  // an empty one
  EXPECT_EQ(retired.Stats().retired, 3u);
}

TEST(RetiredTest, TheRoomForABatchIsWhatTheBacklogLeaves) {
  RetiredTables retired(2 * sizeof(Table));
  RetiredBatch pending;
  RetiredBatch batch;
  EXPECT_TRUE(retired.HasRoomFor(batch));
  pending.Add(new Table(0, 0));
  batch.Add(new Table(0, 0));
  EXPECT_TRUE(retired.HasRoomFor(batch));
  {
    rcu::ReadScope rcu;  // so that nothing is freed yet
    retired.HandOver(pending);
    EXPECT_TRUE(retired.HasRoomFor(batch));
    batch.Add(new Table(0, 0));
    EXPECT_FALSE(retired.HasRoomFor(batch));
  }
  retired.Drain();
  EXPECT_TRUE(retired.HasRoomFor(batch));
  retired.FreeAfterGracePeriod(batch);
}

TEST(RetiredTest, AnEmptyBatchIsNoCallback) {
  RetiredTables retired;
  RetiredBatch batch;
  retired.HandOver(batch);
  EXPECT_EQ(retired.Stats().retired, 0u);
}

TEST(RetiredTest, ABatchThatIsDroppedIsABug) {
  EXPECT_DEATH(
      {
        RetiredBatch batch;
        batch.Add(new Table(0, 0));
      },
      "not handed over");
}

TEST(RetiredTest, ACapOfNothingFreesBeforeItReturns) {
  RetiredTables retired(0);
  RetiredBatch batch;
  batch.Add(new Table(0, 0));
  retired.HandOver(batch);
  retired.ThrottleRetired();
  EXPECT_EQ(retired.Stats().freed, 1u);
}

}  // namespace
}  // namespace underfoot::testing
