// The auditor: it finds each wrong translation, and names the source that should have reported it.

#include "vmm/audit/auditor.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "mmu/pfn_cache.h"
#include "tests/memory/changes_by_others.h"
#include "tests/memory/fake_records.h"
#include "tests/memory/memory_test.h"
#include "vmm/evidence/foreign_changes.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/kernel/kernel_notifier.h"

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
    foreign_.emplace(side().memory->hvas(), [] { return int64_t{1}; });
    MakeAuditor(nullptr);
  }
  void TearDown() override {
    auditor_.reset();
    kernel_.reset();
    MemoryTest::TearDown();
  }
  void MakeAuditor(KernelNotifier* kernel) { MakeAuditor(kernel, *foreign_); }
  void MakeAuditor(KernelNotifier* kernel, const ForeignChanges& foreign) {
    auditor_ = std::make_unique<Auditor>(mmu(), side().pagemap,
                                         Auditor::Sources{.removals = side().removals,
                                                          .monitor = side().monitor,
                                                          .kernel = kernel,
                                                          .foreign_changes = &foreign,
                                                          .backing = GetParam(),
                                                          .lazy = &side().lazy},
                                         GfnRange{side().GfnAt(0), side().GfnAt(kLeaves)}, 1);
  }
  // From here on the kernel's source is on; it reports the records that the test adds.
  void ListenToTheKernel() {
    kernel_ = std::make_unique<KernelNotifier>(
        mmu(), side().own_changes, side().memory->hvas(), records_.Opener(),
        KernelNotifierOptions{.foreign_changes = &*foreign_});
    ASSERT_TRUE(kernel_->Start().ok());
    ASSERT_TRUE(kernel_->WaitUntilOpen().ok());
    MakeAuditor(kernel_.get());
  }

  // No source reports it: the event counts as one of our own.
  void LosePage(uint64_t i) {
    side().expected.Expect(side().Pages(i));
    ASSERT_EQ(ForeignMadvise(side().Pages(i), MADV_DONTNEED), 0);
    ASSERT_TRUE(side().LeafOf(i).has_value());
  }
  // Freed and there again: the kernel has kept the page, until it needs it.
  void FreeLazily(uint64_t i) {
    ASSERT_TRUE(hooked::Madvise(side().Pages(i), MADV_FREE).ok());
    ASSERT_TRUE(side().EntryOf(i).present);
    FaultIn(i);
  }
  // As by a migration: another frame in its place, and no event. False when it is the same again.
  bool ChangeFrame(uint64_t i) {
    const Pfn frame = side().LeafOf(i)->pfn();
    LosePage(i);
    LosePage(i + 1);
    for (const uint64_t page : {i + 1, i}) {
      EXPECT_EQ(memfd() ? side().uffd.Continue(side().PageAt(page))
                        : side().uffd.CopyZeroes(side().PageAt(page)),
                UffdOutcome::kDone);
    }
    return side().EntryOf(i).pfn != frame;
  }
  void ExpectAudit(uint64_t checks, uint64_t unexplained) {
    EXPECT_EQ(auditor_->Stats().checks, checks);
    EXPECT_EQ(auditor_->Stats().unexplained, unexplained);
  }

  std::optional<ForeignChanges> foreign_;  // its clock stands still: it remembers each change
  FakeRecords records_;
  std::unique_ptr<KernelNotifier> kernel_;
  std::unique_ptr<Auditor> auditor_;
};

TEST_P(AuditorTest, OverAQuietMemoryItAgreesWithEveryLeaf) {
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  ASSERT_TRUE(hooked::Madvise(side().Pages(0, 10), MADV_DONTNEED).ok());
  auditor_->Sweep();
  ExpectAudit(kLeaves + kLeaves - 10, 0);
}

TEST_P(AuditorTest, HolesBetweenLeavesAreReadOverAndAreNoDifferences) {
  for (uint64_t i = 1; i < kLeaves; i += 2) {
    ASSERT_TRUE(hooked::Madvise(side().Pages(i), MADV_DONTNEED).ok());
  }
  auditor_->Sweep();
  ExpectAudit(kLeaves / 2, 0);
  EXPECT_EQ(auditor_->Stats().differences, 0u);
  LosePage(20);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().checks, kLeaves);
  EXPECT_EQ(auditor_->Stats().differences, 1u);
}

// Userfaultfd reports every removal of anonymous memory, except of a page after MADV_FREE. The
// pages of a memfd can be punched out through the file without an event.
TEST_P(AuditorTest, APageThatWentWithoutAReportIsChargedToUserfaultfd) {
  LosePage(7);
  auditor_->Sweep();
  ExpectAudit(kLeaves, memfd() ? 0 : 1);
  EXPECT_EQ(auditor_->Stats().missed_by_uffd, memfd() ? 0u : 1u);
  EXPECT_EQ(auditor_->Stats().unobserved, memfd() ? 1u : 0u);
  EXPECT_EQ(auditor_->Stats().differences, 1u);
  EXPECT_EQ(side().LeafOf(7).has_value(), !memfd()) << "repaired only where no source is to blame";
  EXPECT_EQ(side().monitor.Stats().lost_copies_repaired, 0u);
}

// Not as a copy that was lost, nor as one that userfaultfd should have reported.
TEST_P(AuditorTest, APageAfterMadvFreeIsUnobservedWithoutTheKernelSource) {
  if (memfd()) return;  // nothing is freed lazily
  FreeLazily(7);
  LosePage(7);
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  EXPECT_EQ(auditor_->Stats().unobserved, 1u);
  EXPECT_EQ(side().monitor.Stats().lost_copies_repaired, 0u);
  EXPECT_FALSE(side().LeafOf(7).has_value());
  LosePage(8);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().missed_by_uffd, 1u) << "its neighbour was not freed";
}

TEST_P(AuditorTest, APageThatTheKernelReclaimedAfterMadvFreeIsUnobserved) {
  if (memfd()) return;
  FreeLazily(7);
  const auto gone = [&] {
    EXPECT_EQ(ForeignMadvise(side().Pages(7), MADV_PAGEOUT), 0);
    return !side().EntryOf(7).present;
  };
  ASSERT_TRUE(WaitUntil(gone));
  ASSERT_FALSE(side().EntryOf(7).swapped) << "freed, not kept";
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  EXPECT_EQ(auditor_->Stats().unobserved, 1u);
  EXPECT_EQ(side().Load(7), 0u);
}

TEST_P(AuditorTest, APageAfterMadvFreeIsChargedToTheKernelSourceIfThatIsOn) {
  if (memfd()) return;
  ListenToTheKernel();
  FreeLazily(7);
  LosePage(7);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().missed_by_kernel, 1u);
  EXPECT_EQ(auditor_->Stats().unobserved, 0u);
}

// The report of it has expired when the kernel takes the page.
TEST_P(AuditorTest, AForeignRemovalMayHaveBeenAMadvFree) {
  if (memfd()) return;
  ASSERT_EQ(ForeignMadvise(side().Pages(7), MADV_FREE), 0);
  EXPECT_TRUE(WaitUntil([&] { return side().lazy.MayGo(side().Pages(7)); }));
  EXPECT_FALSE(side().lazy.MayGo(side().Pages(8)));
}

TEST_P(AuditorTest, APageThatCameInAfterOurDiscardIsLazyNoMore) {
  if (memfd()) return;
  for (const uint64_t i : {7, 8}) {
    FreeLazily(i);
    ASSERT_TRUE((i == 7 ? side().hooks.Discard(side().Pages(i)).status()
                        : hooked::Madvise(side().Pages(i), MADV_DONTNEED))
                    .ok());
    FaultIn(i);
    LosePage(i);
  }
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().missed_by_uffd, 2u);
  EXPECT_EQ(auditor_->Stats().unobserved, 0u);
}

TEST_P(AuditorTest, AChangedFrameIsUnobservedWithoutTheKernelSource) {
  if (!side().pagemap.real_pfns() || !ChangeFrame(7)) return;
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().unexplained, 0u);
  EXPECT_GE(auditor_->Stats().unobserved, 1u);
  EXPECT_FALSE(side().LeafOf(7).has_value());
}

TEST_P(AuditorTest, AChangedFrameIsUnexplainedIfTheKernelSourceReportedNothing) {
  if (!side().pagemap.real_pfns()) return;
  ListenToTheKernel();
  if (!ChangeFrame(7)) return;
  auditor_->Sweep();
  EXPECT_GE(auditor_->Stats().missed_by_kernel, 1u);
  EXPECT_EQ(auditor_->Stats().unobserved, 0u);
  EXPECT_TRUE(side().LeafOf(7).has_value());
}

TEST_P(AuditorTest, AReportedChangeThatIsNotAppliedYetIsAwaitedAndExplains) {
  ListenToTheKernel();
  // Its own thread may be faster than the audit, but not each time.
  for (uint64_t i = 0; i < kLeaves; ++i) {
    LosePage(i);
    records_.Add(side().Pages(i));
    auditor_->Sweep();
    EXPECT_FALSE(side().LeafOf(i).has_value());
  }
  EXPECT_EQ(auditor_->Stats().unexplained, 0u);
  EXPECT_EQ(auditor_->Stats().unobserved, 0u);
  EXPECT_GT(auditor_->Stats().explained_kernel, 0u);
}

// The translation came back before the change was over, and outlasted the second invalidation.
TEST_P(AuditorTest, AStaleLeafThatTheKernelReportedIsRepaired) {
  ListenToTheKernel();
  foreign_->Note(side().Pages(6, 2));
  LosePage(7);
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  EXPECT_EQ(auditor_->Stats().explained_kernel, 1u);
  EXPECT_FALSE(side().LeafOf(7).has_value());
  EXPECT_TRUE(side().LeafOf(6).has_value());
}

// What a hook did is strict: it explains no translation that is wrong afterwards.
TEST_P(AuditorTest, ARecordOfAHookedCallExplainsNoDifference) {
  ListenToTheKernel();
  int64_t inside = 0;
  {
    InvalidationScope hook(mmu().notifier(), {side().Pages(7), InvalidationKind::kUnmap});
    inside = MonotonicNs();
  }
  records_.Add(side().Pages(7), gettid(), inside);
  ASSERT_TRUE(kernel_->Drain());
  FaultIn(7);
  LosePage(7);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().unexplained, 1u);
}

TEST_P(AuditorTest, ACacheWithAnotherFrameIsFoundToo) {
  PfnCache cache(mmu(), "audited");
  Reader reader(mmu().readers());
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(7), 8, Access::kWrite).ok());
  ASSERT_EQ(cache.Refresh(reader), RefreshOutcome::kValid);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().cache_checks, 1u);
  EXPECT_EQ(auditor_->Stats().differences, 0u);
  LosePage(7);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().cache_checks, memfd() ? 1u : 2u) << "repaired with its leaf";
  EXPECT_EQ(auditor_->Stats().unexplained, memfd() ? 0u : 2u);
  cache.Deactivate();
}

// Beyond the leaves that the auditor looks at: only the cache is audited.
TEST_P(AuditorTest, ACacheOfSeveralPagesIsFoundWrongInAnyOfThem) {
  constexpr uint64_t kFirst = kLeaves + 1;
  PfnCache cache(mmu(), "audited");
  Reader reader(mmu().readers());
  ASSERT_TRUE(
      cache.Activate(reader, side().GpaAt(kFirst) + 8, 3 * kPageSize - 8, Access::kWrite).ok());
  ASSERT_EQ(cache.Refresh(reader), RefreshOutcome::kValid);
  const std::vector<Pfn> pfns = cache.Describe().pfns;
  ASSERT_EQ(pfns.size(), 3u);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(pfns[i], side().EntryOf(kFirst + i).pfn);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().cache_checks, 1u);
  EXPECT_EQ(auditor_->Stats().differences, 0u);
  LosePage(kFirst + 1);
  auditor_->Sweep();
  EXPECT_EQ(auditor_->Stats().cache_checks, 2u);
  EXPECT_EQ(auditor_->Stats().differences, 1u);
  EXPECT_EQ(auditor_->Stats().missed_by_uffd, memfd() ? 0u : 1u);
  EXPECT_EQ(cache.Describe().valid, !memfd()) << "repaired only where no source is to blame";
  cache.Deactivate();
}

TEST_P(AuditorTest, AWriteProtectionWithoutAReportIsADifference) {
  ASSERT_EQ(side().uffd.WriteProtect(side().Pages(7), true), UffdOutcome::kDone);
  auditor_->Sweep();
  ExpectAudit(kLeaves, 1);
  EXPECT_EQ(auditor_->Stats().missed_by_hooks, 1u);
}

TEST_P(AuditorTest, AWriteProtectionByTheHooksIsNone) {
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(0, 10)).ok());
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
}

TEST_P(AuditorTest, APageThatAForeignRemovalTookLateIsExplainedAndRepaired) {
  LosePage(7);
  side().removals.Add(side().Pages(6, 2));
  auditor_->Sweep();
  ExpectAudit(kLeaves, 0);
  EXPECT_EQ(auditor_->Stats().explained_uffd, 1u);
  EXPECT_EQ(side().monitor.Stats().lost_copies_repaired, 1u);
  EXPECT_FALSE(side().LeafOf(7).has_value());
  EXPECT_TRUE(side().LeafOf(6).has_value());
}

// The removal is reported, but the auditor may see it before the report is applied.
TEST_P(AuditorTest, WhileForeignersRemoveAndHooksProtectItFindsNoDifference) {
  constexpr uint64_t kRemovals = 500;
  // The auditor also learns what the rest of the host takes meanwhile.
  const std::unique_ptr<ChangesByOthers> others = ChangesByOthers::Start(side());
  if (others != nullptr) MakeAuditor(&others->notifier(), others->changes());
  std::atomic<bool> stop{false};
  std::thread toucher([&] {
    for (uint64_t n = 0; !stop; ++n) side().Store(n % kLeaves, n);
  });
  std::thread protector([&] {
    for (uint64_t n = 0; !stop; ++n) {
      EXPECT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(n * 7 % kLeaves)).ok());
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
  // While removals are pending no leaf is made: there is something to audit once they are over.
  EXPECT_TRUE(WaitUntil([&] {
    EXPECT_TRUE(hooked::Madvise(side().Pages(0), MADV_DONTNEED).ok());
    side().Store(0, 1);
    auditor_->Sweep();
    return auditor_->Stats().checks > 0;
  }));
  EXPECT_EQ(auditor_->Stats().unexplained, 0u);
  EXPECT_EQ(auditor_->Stats().unobserved, 0u);
  auditor_.reset();  // before the notifier that it asks
}

TEST_P(AuditorTest, ItSamplesByItselfUntilItIsStopped) {
  ASSERT_TRUE(auditor_->Start().ok());
  EXPECT_TRUE(WaitUntil([&] { return auditor_->Stats().checks > 100; }));
  auditor_->Stop();
  const uint64_t checks = auditor_->Stats().checks;
  EXPECT_EQ(auditor_->Stats().checks, checks);
  EXPECT_EQ(auditor_->Stats().differences, 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(AuditorTest);

}  // namespace
}  // namespace underfoot::testing
