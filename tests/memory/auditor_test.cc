// Who audits the translations: it finds what is wrong, and only that.

#include "vmm/memory/auditor.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "tests/memory/memory_test.h"

namespace underfoot::testing {
namespace {

class AuditorTest : public MemoryTest {
 protected:
  static constexpr uint64_t kLeaves = 40;

  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    StartMonitor();
    for (uint64_t i = 0; i < kLeaves; ++i) FaultIn(i);
    auditor_ = std::make_unique<Auditor>(mmu(), side().pagemap, side().settling, side().monitor,
                                         GfnRange{side().GfnAt(0), side().GfnAt(kLeaves)}, 1);
  }
  void TearDown() override {
    auditor_.reset();
    MemoryTest::TearDown();
  }

  // Behind everybody's back: the event is taken for one of our own.
  void LosePage(uint64_t i) {
    side().expected.Expect(side().Pages(i));
    ASSERT_EQ(ForeignMadvise(side().Pages(i), MADV_DONTNEED), 0);
    ASSERT_TRUE(side().LeafOf(i).has_value());
  }
  void ExpectAudit(uint64_t checks, uint64_t differences) {
    EXPECT_EQ(auditor_->Stats().checks, checks);
    EXPECT_EQ(auditor_->Stats().differences, differences);
  }

  std::unique_ptr<Auditor> auditor_;
};

TEST_P(AuditorTest, OverAQuietMemoryItAgreesWithEveryLeaf) {
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  ASSERT_TRUE(side().hooks.Madvise(side().Pages(0, 10), MADV_DONTNEED).ok());
  auditor_->Sweep();
  ExpectAudit(kLeaves + kLeaves - 10, 0);
}

TEST_P(AuditorTest, APageThatWentBehindEverybodysBackIsADifference) {
  LosePage(7);
  auditor_->Sweep();
  ExpectAudit(kLeaves, 1);
  EXPECT_TRUE(side().LeafOf(7).has_value());
  EXPECT_EQ(side().monitor.Stats().lost_copies_repaired, 0u);
}

TEST_P(AuditorTest, AFrameThatChangedBehindEverybodysBackIsADifference) {
  if (!side().pagemap.real_pfns() || memfd()) return;
  LosePage(7);
  LosePage(8);
  // The pages come back the other way round, so neither has its own frame again.
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(8)), UffdOutcome::kDone);
  ASSERT_EQ(side().uffd.CopyZeroes(side().PageAt(7)), UffdOutcome::kDone);
  uint64_t changed = 0;
  for (const uint64_t i : {7u, 8u}) changed += side().LeafOf(i)->pfn() != side().EntryOf(i).pfn;
  auditor_->Sweep();
  ExpectAudit(kLeaves, changed);
}

TEST_P(AuditorTest, AWriteProtectionBehindEverybodysBackIsADifference) {
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(7), true), UffdOutcome::kDone);
  auditor_->Sweep();
  ExpectAudit(kLeaves, 1);
}

TEST_P(AuditorTest, AWriteProtectionByTheHooksIsNone) {
  ASSERT_TRUE(side().hooks.WriteProtect(side().Pages(0, 10)).ok());
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
}

TEST_P(AuditorTest, APageThatAForeignRemovalTookLateIsRepairedAndNoDifference) {
  LosePage(7);
  side().settling.Add(side().Pages(6, 2));
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  EXPECT_EQ(side().monitor.Stats().lost_copies_repaired, 1u);
  EXPECT_FALSE(side().LeafOf(7).has_value());
  EXPECT_TRUE(side().LeafOf(6).has_value());
}

// The removal is told, but it may be seen before it was heard of.
TEST_P(AuditorTest, WhileForeignersRemoveAndHooksProtectItFindsNoDifference) {
  constexpr uint64_t kRemovals = 500;
  std::atomic<bool> stop{false};
  std::thread toucher([&] {
    for (uint64_t n = 0; !stop; ++n) side().Store(n % kLeaves, n);
  });
  std::thread protector([&] {
    for (uint64_t n = 0; !stop; ++n) {
      EXPECT_TRUE(side().hooks.WriteProtect(side().Pages(n * 7 % kLeaves)).ok());
    }
  });
  std::thread foreigner([&] {
    for (uint64_t n = 0; n < kRemovals; ++n) {
      EXPECT_EQ(ForeignMadvise(side().Pages(n * 11 % kLeaves), MADV_DONTNEED), 0);
    }
    stop = true;
  });
  while (!stop) auditor_->Sweep();
  for (std::thread* thread : {&toucher, &protector, &foreigner}) thread->join();
  // While removals settle no leaf is made: there is something to audit once they have.
  EXPECT_TRUE(WaitUntil([&] {
    EXPECT_TRUE(side().hooks.Madvise(side().Pages(0), MADV_DONTNEED).ok());
    side().Store(0, 1);
    auditor_->Sweep();
    return auditor_->Stats().checks > 0;
  }));
  EXPECT_EQ(auditor_->Stats().differences, 0u);
}

TEST_P(AuditorTest, ItSamplesByItselfUntilItIsStopped) {
  auditor_->Start();
  EXPECT_TRUE(WaitUntil([&] { return auditor_->Stats().checks > 100; }));
  auditor_->Stop();
  const uint64_t checks = auditor_->Stats().checks;
  EXPECT_EQ(auditor_->Stats().checks, checks);
  EXPECT_EQ(auditor_->Stats().differences, 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(AuditorTest);

}  // namespace
}  // namespace underfoot::testing
