// The kinds of churn that take more than a call, over real memory: what they do to content and to
// translations.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <functional>
#include <thread>

#include "tests/memory/memory_test.h"
#include "vmm/churn/adversary.h"
#include "vmm/churn/forking.h"
#include "vmm/churn/host_needs.h"
#include "vmm/churn/huge_pages.h"
#include "vmm/churn/relocation.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPages = 8;

class ChurnKindsTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    if (IsSkipped()) return;
    StartMonitor();
    for (uint64_t i = 0; i < kPages; ++i) {
      side().Store(i, 1000 + i);
      // The monitor maps what it brings in, after it woke us.
      ASSERT_TRUE(WaitUntil([&] { return side().LeafOf(i).has_value(); })) << i;
    }
  }

  const RamSlot& Slot() const { return side_->memory->slots()[2]; }

  void ExpectContentKept(uint64_t first = 0) {
    for (uint64_t i = first; i < kPages; ++i) EXPECT_EQ(side().Load(i), 1000 + i) << i;
  }
  void ExpectNoReaderSees(const std::function<void()>& change) {
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> wrong{0};
    std::thread reader([&] {
      while (!stop.load(kRelaxed)) {
        for (uint64_t i = 0; i < kPages; ++i) wrong.fetch_add(side().Load(i) != 1000 + i, kRelaxed);
      }
    });
    for (int round = 0; round < 200; ++round) change();
    stop.store(true, kRelaxed);
    reader.join();
    EXPECT_EQ(wrong.load(), 0u);
  }
  // A translation that is there is the right one.
  void ExpectNothingStale(uint64_t first = 0, uint64_t count = kPages) {
    for (uint64_t i = first; i < first + count; ++i) {
      const std::optional<Pte> leaf = side().LeafOf(i);
      const PagemapEntry entry = side().EntryOf(i);
      if (leaf.has_value()) {
        EXPECT_TRUE(entry.present && entry.pfn == leaf->pfn()) << i;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Backings, ChurnKindsTest,
                         ::testing::Values(Backing::kAnon, Backing::kMemfd), BackingOf);

// UFFDIO_MOVE is for private memory.
class MovingPagesTest : public ChurnKindsTest {};

INSTANTIATE_TEST_SUITE_P(Backings, MovingPagesTest, ::testing::Values(Backing::kAnon), BackingOf);

TEST_P(ChurnKindsTest, ACollapseMovesFramesAndKeepsContent) {
  HugePageChurn churn(mmu(), side().hooks, side().uffd);
  const std::optional<HvaRange> block = HugePageChurn::BlockIn(Slot(), 0);
  ASSERT_TRUE(block.has_value());
  const uint64_t first = (block->begin - side().PageAt(0)) / kPageSize;
  side().Store(first + 3, 77);
  const absl::StatusOr<ChurnOutcome> outcome = churn.Collapse(Slot(), *block);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(side().Load(first + 3), 77u);
  ExpectNothingStale(first, 512);
  ExpectContentKept();
}

TEST_P(ChurnKindsTest, ASplitKeepsContentAndLeavesNoProtection) {
  HugePageChurn churn(mmu(), side().hooks, side().uffd);
  const std::optional<HvaRange> block = HugePageChurn::BlockIn(Slot(), 1);
  ASSERT_TRUE(block.has_value());
  ASSERT_TRUE(churn.Split(Slot(), *block).ok());
  const uint64_t middle = (block->begin - side().PageAt(0)) / kPageSize + 256;
  side().Store(middle, 5);
  EXPECT_EQ(side().Load(middle), 5u);
  ExpectNothingStale(middle, 4);
}

TEST_P(ChurnKindsTest, AMappingThatWentAwayComesBackWithItsContentAndItsFaults) {
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  const absl::StatusOr<ChurnOutcome> outcome = churn.Remap(side().Pages(0, kPages));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(*outcome, ChurnOutcome::kDone);
  ExpectContentKept();
  ExpectNothingStale();
  // Still registered: what is discarded comes back by a fault that we see.
  const uint64_t missing = side().monitor.Stats().missing;
  ASSERT_TRUE(side().hooks.Discard(side().Pages(0)).ok());
  EXPECT_EQ(side().Load(0), 0u);
  EXPECT_GT(side().monitor.Stats().missing, missing);
}

TEST_P(MovingPagesTest, TheyComeBack) {
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  const absl::StatusOr<ChurnOutcome> outcome = churn.Move(side().Pages(0, kPages));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  if (*outcome == ChurnOutcome::kDeclined) UNDERFOOT_SKIP("this kernel moves no pages (6.8 does)");
  ExpectContentKept();
  ExpectNothingStale();
}

TEST_P(MovingPagesTest, ARunningReaderSeesNothingOfIt) {
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  ExpectNoReaderSees([&] { EXPECT_TRUE(churn.Move(side().Pages(0, kPages)).ok()); });
}

// Nor does it meet a hole: another thread's mapping could come there.
TEST_P(ChurnKindsTest, ARunningReaderSeesNothingOfAMappingThatIsAway) {
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  ExpectNoReaderSees([&] { EXPECT_TRUE(churn.Remap(side().Pages(0, kPages)).ok()); });
}

TEST_P(ChurnKindsTest, NothingIsBroughtInWhereTheGateIsShut) {
  ASSERT_TRUE(side().hooks.Discard(side().Pages(1)).ok());
  {
    const PageInGate::Shut shut(side().source.gate(), side().Pages(1));
    EXPECT_EQ(side().source.PageIn(side().PageAt(1), Access::kWrite).outcome,
              PageInOutcome::kAgain);
    EXPECT_FALSE(side().EntryOf(1).present);
    EXPECT_EQ(side().source.PageIn(side().PageAt(2), Access::kWrite).outcome,
              PageInOutcome::kPresent);
  }
  EXPECT_EQ(side().Load(1), 0u);
}

TEST_P(ChurnKindsTest, AForkKeepsContentOnBothSidesAndEndsItsChild) {
  ASSERT_TRUE(ForkWith(side().hooks, side().Pages(0, kPages), absl::Milliseconds(1)).ok());
  ExpectContentKept();
  for (uint64_t i = 0; i < kPages; ++i) side().Store(i, 1000 + i);
  ExpectContentKept();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST_P(ChurnKindsTest, TheAdversaryReclaimsFromOutsideAndDiesWithUs) {
  pid_t child = 0;
  {
    absl::StatusOr<Adversary> adversary = Adversary::Start();
    ASSERT_TRUE(adversary.ok()) << adversary.status();
    const absl::Status advised = adversary->Advise(side().Pages(0, kPages), MADV_COLD);
    EXPECT_TRUE(advised.ok()) << advised;
    // The kernel lets nobody else discard.
    EXPECT_FALSE(adversary->Advise(side().Pages(0), MADV_DONTNEED).ok());
    child = adversary->pid();
    EXPECT_EQ(kill(child, 0), 0);
  }
  EXPECT_EQ(kill(child, 0), -1);
  ExpectContentKept();
}

TEST(HostNeedsTest, WithoutLeaveNothingIsChangedAndEachKindSaysWhatItNeeds) {
  ChurnRates all;
  for (const ChurnKindInfo& info : kChurnKinds) all[info.kind] = 1;
  const ChurnLimits limits = ProvideForChurn(Backing::kAnon, uint64_t{32} << 20, all, nullptr);
  EXPECT_NE(limits.WhyNot(ChurnKind::kCompact).find("--allow-host-changes"), std::string::npos);
  EXPECT_EQ(limits.WhyNot(ChurnKind::kDiscard), "");
  EXPECT_NE(limits.WhyNot(ChurnKind::kZap).find("--backing memfd"), std::string::npos);
  for (const auto& [kind, why] : limits.unavailable) {
    EXPECT_NE(InfoOf(kind).host, HostNeed::kNothing) << why;
    EXPECT_FALSE(why.empty());
  }
}

}  // namespace
}  // namespace underfoot::testing
