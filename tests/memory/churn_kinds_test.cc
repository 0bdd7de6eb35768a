// The kinds of churn that take more than a call, over real memory: what they do to content and to
// translations.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/memory/memory_test.h"
#include "vmm/base/newer_kernels.h"
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
  HugePageChurn churn(mmu(), side().uffd, HugePages::kOff);
  const std::optional<HvaRange> block = HugePageChurn::BlockIn(Slot(), kBlockBytes, 0);
  ASSERT_TRUE(block.has_value());
  const uint64_t first = (block->begin - side().PageAt(0)) / kPageSize;
  side().Store(first + 3, 77);
  const absl::StatusOr<ChurnOutcome> outcome = churn.Collapse(Slot(), *block);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(side().Load(first + 3), 77u);
  ExpectNothingStale(first, 512);
  ExpectContentKept();
}

// Of a memfd the call fails: the file gets its huge page, and userfaultfd keeps it from being mapped
// as one. The event of the call must be there all the same, because all translations went.
TEST_P(ChurnKindsTest, ACollapseThatMovedFramesHasItsEvent) {
  HugePageChurn churn(mmu(), side().uffd, HugePages::kOff);
  const std::optional<HvaRange> block = HugePageChurn::BlockIn(Slot(), kBlockBytes, 0);
  ASSERT_TRUE(block.has_value());
  const uint64_t first = (block->begin - side().PageAt(0)) / kPageSize;
  for (uint64_t i = first; i < first + 512; ++i) side().Store(i, i);
  const uint64_t begin = side().events.end();
  const PagemapEntry before = side().EntryOf(first + 1);
  const absl::StatusOr<ChurnOutcome> outcome = churn.Collapse(Slot(), *block);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  if (*outcome == ChurnOutcome::kDeclined) GTEST_SKIP() << "the host collapses nothing now";
  if (before.pfn != Pfn{0}) {
    EXPECT_NE(side().EntryOf(first + 1).pfn, before.pfn);
  }
  uint64_t seen = 0;
  for (const NumberedEvent& numbered : side().events.Since(begin, EventLog::kCapacity)) {
    const HostEvent& event = numbered.event;
    seen += event.source == EventSource::kHook && event.range == *block && event.invalidated;
  }
  EXPECT_EQ(seen, 1u);
}

TEST_P(ChurnKindsTest, ASplitKeepsContentAndLeavesNoProtection) {
  HugePageChurn churn(mmu(), side().uffd, HugePages::kOff);
  const std::optional<HvaRange> block = HugePageChurn::BlockIn(Slot(), kBlockBytes, 1);
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

// A part of it was mapped anew by a raw call: mremap may refuse the two mappings.
TEST_P(ChurnKindsTest, ARemapAfterARawMappingOfAPartIsNoFailure) {
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  const int fd = side().memory->fd();
  const HvaRange part = side().Pages(1);
  ASSERT_EQ(syscall(SYS_mmap, part.begin.value, part.size(), PROT_READ | PROT_WRITE,
                    MAP_FIXED | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), fd,
                    side().GpaAt(1).value),
            static_cast<long>(part.begin.value));
  const absl::StatusOr<ChurnOutcome> outcome = churn.Remap(side().Pages(0, kPages));
  EXPECT_TRUE(outcome.ok()) << outcome.status();
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

// The room that a relocation has for pages: what this process maps more than before, registered
// with one userfaultfd more than before.
class RoomFinder {
 public:
  RoomFinder() : mappings_(Mappings()), uffds_(Uffds()) {}

  Hva Place() const { return New(mappings_, Mappings()); }
  int Uffd() const { return New(uffds_, Uffds()); }

 private:
  template <class T>
  static T New(const std::set<T>& before, const std::set<T>& now) {
    std::vector<T> more;
    std::ranges::set_difference(now, before, std::back_inserter(more));
    EXPECT_EQ(more.size(), 1u);
    return more.empty() ? T{} : more[0];
  }
  // Where those begin that are registered with a userfaultfd for missing pages.
  static std::set<Hva> Mappings() {
    std::set<Hva> found;
    std::ifstream mappings("/proc/self/smaps");
    uint64_t begin = 0;
    for (std::string line; std::getline(mappings, line);) {
      uint64_t from = 0;
      uint64_t to = 0;
      if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) begin = from;
      if (line.starts_with("VmFlags:") && line.find(" um") != line.npos) found.insert(Hva{begin});
    }
    return found;
  }
  static std::set<int> Uffds() {
    std::set<int> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      if (std::filesystem::read_symlink(entry, gone) != "anon_inode:[userfaultfd]") continue;
      found.insert(std::stoi(entry.path().filename()));
    }
    return found;
  }

  const std::set<Hva> mappings_;
  const std::set<int> uffds_;
};

// Moves a page itself just before the `nth` move of it, which the kernel then answers with EEXIST.
class EarlierMover final : public Subscriber {
 public:
  EarlierMover(MemorySide& side, uint64_t page, int nth) : side_(side), page_(page), nth_(nth) {
    side_.mmu.notifier().Register(*this);
  }
  ~EarlierMover() override { side_.mmu.notifier().Unregister(*this); }

  bool Invalidate(const Invalidation& invalidation) override {
    if (invalidation.range != side_.Pages(page_)) return false;
    if (brackets_++ != nth_) return false;  // the first is that of the whole relocation
    const Hva room = room_.Place();
    const Hva page = side_.PageAt(page_);
    newer::UffdioMove out{room.value, page.value, kPageSize, 0, 0};
    newer::UffdioMove back{page.value, room.value, kPageSize, 0, 0};
    moved = nth_ == 1 ? ioctl(room_.Uffd(), newer::kUffdioMove, &out) == 0
                      : ioctl(side_.uffd.fd(), newer::kUffdioMove, &back) == 0;
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }

  bool moved = false;

 private:
  MemorySide& side_;
  const uint64_t page_;
  const int nth_;
  const RoomFinder room_;
  int brackets_ = 0;
};

TEST_P(MovingPagesTest, APageThatMovedDespiteAnErrorComesBack) {
  for (const int nth : {1, 2}) {
    EarlierMover mover(side(), 0, nth);
    Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
    const absl::StatusOr<ChurnOutcome> outcome = churn.Move(side().Pages(0));
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    if (nth == 1 && *outcome == ChurnOutcome::kDeclined && !mover.moved) {
      UNDERFOOT_SKIP("this kernel moves no pages (6.8 does)");
    }
    EXPECT_TRUE(mover.moved);
    EXPECT_EQ(*outcome, ChurnOutcome::kDone);
    ExpectContentKept();
    ExpectNothingStale();
  }
}

TEST_P(ChurnKindsTest, NothingIsBroughtInWhereTheGateIsShut) {
  ASSERT_TRUE(side().hooks.Discard(side().Pages(1)).ok());
  {
    const PageInGate::Shut shut(side().source.gate(), side().Pages(1));
    EXPECT_EQ(side().source.PageIn(side().PageAt(1), Access::kWrite, nullptr).outcome,
              PageInOutcome::kAgain);
    EXPECT_FALSE(side().EntryOf(1).present);
    EXPECT_EQ(side().source.PageIn(side().PageAt(2), Access::kWrite, nullptr).outcome,
              PageInOutcome::kPresent);
  }
  EXPECT_EQ(side().Load(1), 0u);
}

TEST_P(ChurnKindsTest, AForkKeepsContentOnBothSidesAndEndsItsChild) {
  ASSERT_TRUE(ForkWith(side().Pages(0, kPages), absl::Milliseconds(1)).ok());
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
    // The kernel lets no other process discard.
    EXPECT_FALSE(adversary->Advise(side().Pages(0), MADV_DONTNEED).ok());
    child = adversary->pid();
    EXPECT_EQ(kill(child, 0), 0);
  }
  EXPECT_EQ(kill(child, 0), -1);
  ExpectContentKept();
}

TEST(HostNeedsTest, WithoutPermissionNothingIsChangedAndEachKindNamesItsNeed) {
  ChurnRates all;
  for (const ChurnKindInfo& info : kChurnKinds) all[info.kind] = 1;
  const ChurnLimits limits =
      ProvideForChurn({.backing = Backing::kAnon}, uint64_t{32} << 20, all, nullptr);
  EXPECT_NE(limits.UnavailableReason(ChurnKind::kCompact).find("--allow-host-changes"),
            std::string::npos);
  EXPECT_EQ(limits.UnavailableReason(ChurnKind::kDiscard), "");
  EXPECT_NE(limits.UnavailableReason(ChurnKind::kZap).find("--backing memfd"), std::string::npos);
  for (const auto& [kind, why] : limits.unavailable) {
    EXPECT_NE(InfoOf(kind).host, HostNeed::kNothing) << why;
    EXPECT_FALSE(why.empty());
  }
}

}  // namespace
}  // namespace underfoot::testing
