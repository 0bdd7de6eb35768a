// Guest RAM in huge pages over real userfaultfd: blocks come in whole, become one leaf, are broken by
// the host, and become one leaf again.

#include "vmm/churn/huge_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "mmu/base/rcu.h"
#include "tests/memory/memory_side.h"
#include "tests/memory/pending_event.h"
#include "tests/support/host_huge_pages.h"
#include "tests/support/wait_until.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/ram/aligned_mapping.h"
#include "vmm/ram/huge_page_pool.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kBlockPages = kBlockBytes >> kPageShift;

class HugePagesTest : public ::testing::TestWithParam<std::tuple<Backing, HugePages>> {
 protected:
  static Backing backing() { return std::get<0>(GetParam()); }
  static HugePages huge() { return std::get<1>(GetParam()); }
  static bool memfd() { return backing() == Backing::kMemfd; }
  static bool thp() { return huge() == HugePages::kThp; }

  void SetUp() override {
    pages_ = std::make_unique<HostHugePages>(huge(), backing(), MemorySide::kBytes);
    if (!pages_->why_not().empty()) UNDERFOOT_SKIP(pages_->why_not());
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.backing = backing(), .huge_pages = huge(), .fault_around = 64});
    if (absl::IsPermissionDenied(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
    if (!side_->pagemap.real_pfns()) UNDERFOOT_SKIP("pagemap hides the frame numbers");
    const absl::Status started = side_->ram->Start();
    ASSERT_TRUE(started.ok()) << started;
  }
  void TearDown() override {
    if (side_ == nullptr) return;
    EXPECT_TRUE(WaitUntil([&] { return side_->mmu.in_flight().count() == 0; }));
    EXPECT_EQ(side_->mmu.Stats().notifier.stray_ends, 0u);
  }

  MemorySide& side() { return *side_; }
  UffdStats stats() { return side_->monitor.Stats(); }
  // Slot 3 is discardable, and has a block in RAM of 32 MiB.
  const RamSlot& slot() { return side_->memory->slots()[3]; }
  HvaRange Block() { return *HugePageChurn::BlockIn(slot(), kBlockBytes, 0); }
  Gfn GfnOfPage(Hva page) { return GfnOf(slot().gpa + (page - slot().hva)); }
  std::atomic_ref<uint64_t> Word(Hva page) {
    return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(page)));
  }
  // An access of any thread: it may fault, and then waits for the monitor.
  void Store(Hva page, uint64_t value) { Word(page).store(value, std::memory_order::relaxed); }
  uint64_t Load(Hva page) { return Word(page).load(std::memory_order::relaxed); }
  static Hva PageOfBlock(HvaRange block, uint64_t i) { return block.begin + i * kPageSize; }

  std::optional<Stage2::Leaf> LeafOf(Hva page) {
    rcu::ReadScope rcu;
    return side_->mmu.stage2().Lookup(GfnOfPage(page));
  }
  std::vector<PagemapEntry> EntriesOf(HvaRange range) {
    std::vector<PagemapEntry> entries(range.size() >> kPageShift);
    side_->pagemap.Read(range, entries);
    return entries;
  }
  bool IsOneFrame(HvaRange block) {
    const std::vector<PagemapEntry> entries = EntriesOf(block);
    for (uint64_t i = 0; i < entries.size(); ++i) {
      if (!entries[i].present || entries[i].pfn != entries[0].pfn + i) return false;
    }
    return entries[0].pfn.value % kBlockPages == 0;
  }
  // True as soon as the block has one leaf, of the host's frame. The leaf comes after the wake-up.
  bool BecomesOneLeaf(HvaRange block) {
    return WaitUntil([&] {
      const auto leaf = LeafOf(block.begin);
      return leaf.has_value() && leaf->level == 1 && IsOneFrame(block) &&
             leaf->pte.pfn() == side_->pagemap.Read(block.begin).pfn;
    });
  }
  void ExpectNothingStale(HvaRange block) {
    const std::vector<PagemapEntry> entries = EntriesOf(block);
    for (uint64_t i = 0; i < entries.size(); ++i) {
      const auto leaf = LeafOf(PageOfBlock(block, i));
      if (!leaf.has_value()) continue;
      ASSERT_TRUE(entries[i].present) << i;
      ASSERT_EQ(leaf->PfnOf(GfnOfPage(PageOfBlock(block, i))), entries[i].pfn) << i;
    }
  }
  // Touches a page of the block, and the block becomes one leaf. The host may have no huge page
  // left: then there is nothing to see.
  void TouchBlock(HvaRange block, uint64_t page = 37, uint64_t value = 1) {
    Store(PageOfBlock(block, page), value);
    ASSERT_TRUE(WaitUntil([&] { return LeafOf(PageOfBlock(block, page)).has_value(); }));
    if (thp() && !IsOneFrame(block)) GTEST_SKIP() << "this host has no free huge page";
    ASSERT_TRUE(BecomesOneLeaf(block));
  }

  // By a raw call on the file: neither an event nor a hook reports it.
  void PunchUnnoticed(HvaRange block) {
    EXPECT_EQ(
        syscall(SYS_fallocate, side().memory->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                slot().gpa.value + (block.begin - slot().hva), block.size()),
        0);
  }

  std::unique_ptr<HostHugePages> pages_;
  std::unique_ptr<MemorySide> side_;
};

class HugeFileTest : public HugePagesTest {};     // a memfd
class HugetlbFileTest : public HugePagesTest {};  // a memfd of hugetlb pages
class HugetlbTest : public HugePagesTest {};
class ThpTest : public HugePagesTest {};

TEST_P(HugePagesTest, OneFaultBringsInABlockAsOneLeaf) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  EXPECT_EQ(stats().missing, 1u);
  EXPECT_EQ(stats().blocks, 1u);
  EXPECT_EQ(stats().around, kBlockPages - 1);
  EXPECT_EQ(side().mmu.Stats().stage2.leaves_2m, 1u);
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 1u);
  EXPECT_EQ(Load(PageOfBlock(block, 511)), 0u);
  EXPECT_TRUE(LeafOf(block.begin)->pte.dirty());
  EXPECT_EQ(stats().missing + stats().minor, 1u);
}

// As a loader does before it writes: with a fault of the guest, no page would be of 4 KiB either.
TEST_P(HugePagesTest, ARangeThatTheMachineBringsInComesInWholeBlocks) {
  const HvaRange block = Block();
  const Gfn first = GfnOfPage(block.begin);
  Reader reader(side().mmu.readers());
  // Begins and ends inside of two blocks.
  side().access.BringIn(reader, {first + 300, first + kBlockPages + 10}, Around::kBlocks);
  if (thp() && !IsOneFrame(block)) UNDERFOOT_SKIP("this host has no free huge page");
  EXPECT_EQ(LeafOf(block.begin)->level, 1u);
  EXPECT_FALSE(LeafOf(block.begin)->pte.dirty());
  EXPECT_TRUE(LeafOf(block.end + 511 * kPageSize).has_value());
  const uint64_t word = 5;
  const absl::Status written = side().access.Write(reader, GpaOf(first) + 300 * kPageSize,
                                                   std::as_bytes(std::span(&word, 1)));
  ASSERT_TRUE(written.ok()) << written;
  EXPECT_EQ(Load(PageOfBlock(block, 300)), 5u);
  EXPECT_EQ(LeafOf(block.begin)->level, 1u);
  EXPECT_EQ(stats().missing + stats().minor, 0u);
  ExpectNothingStale(block);
}

TEST_P(ThpTest, WithoutTheBlocksAroundItOnlyTheRangeComesIn) {
  const HvaRange block = Block();
  const Gfn first = GfnOfPage(block.begin);
  Reader reader(side().mmu.readers());
  side().access.BringIn(reader, {first + 300, first + 310}, Around::kNothing);
  for (const uint64_t i : {299U, 300U, 309U, 310U}) {
    EXPECT_EQ(LeafOf(PageOfBlock(block, i)).has_value(), i == 300 || i == 309) << i;
  }
  ExpectNothingStale(block);
}

// Every block of RAM, one after the other: also faster than a thread could have cleared them.
TEST_P(HugePagesTest, BlocksThatAreTouchedOneAfterTheOtherAllComeInWhole) {
  const HvaRange ram = side().memory->hvas();
  const Hva first = slot().hva;
  for (Hva page = first; page < ram.end; page += kBlockBytes) Store(page, page.value);
  for (Hva page = first; page < ram.end; page += kBlockBytes) EXPECT_EQ(Load(page), page.value);
  const uint64_t blocks = (ram.end - first) / kBlockBytes;
  EXPECT_TRUE(WaitUntil([&] { return stats().blocks + stats().block_fallbacks == blocks; }));
  if (IsHugetlb(huge())) {
    EXPECT_EQ(stats().blocks, blocks);
  }
  EXPECT_EQ(stats().missing, blocks);
}

TEST_P(HugeFileTest, WhatTheFileKeepsComesBackAsOneBlock) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block, 300, 7));
  if (IsSkipped()) return;
  ASSERT_TRUE(hooked::Madvise(block, MADV_DONTNEED).ok());
  EXPECT_FALSE(LeafOf(block.begin).has_value());
  EXPECT_EQ(Load(PageOfBlock(block, 300)), 7u);
  EXPECT_TRUE(BecomesOneLeaf(block));
  EXPECT_EQ(stats().minor, 1u);
  EXPECT_EQ(stats().blocks, 2u);
}

TEST_P(HugePagesTest, ADiscardedBlockComesBackAsZeroes) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  ASSERT_TRUE(side().hooks.Discard(block).ok());
  EXPECT_FALSE(LeafOf(block.begin).has_value());
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 0u);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(block.begin).has_value(); }));
  ExpectNothingStale(block);
}

// The host takes one page of a huge page. The rest of the leaf stays, and stays dirty. Of a file the
// kernel unmaps the whole huge page, and so does stage-2; the other pages come back as they were.
TEST_P(ThpTest, ADiscardOfAPartSplitsTheLeafAndLosesNoOtherPage) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  const Pfn frame = LeafOf(block.begin)->pte.pfn();
  const HvaRange part = PageRangeOf(PageOfBlock(block, 100), 3);
  const absl::StatusOr<uint64_t> gone = side().hooks.Discard(part);
  ASSERT_TRUE(gone.ok()) << gone.status();
  for (uint64_t i = 0; i < kBlockPages; ++i) {
    const Hva page = PageOfBlock(block, i);
    const auto leaf = LeafOf(page);
    ASSERT_EQ(leaf.has_value(), !memfd() && !part.Contains(page)) << i;
    if (!leaf.has_value()) continue;
    ASSERT_EQ(leaf->pte.pfn(), frame + i) << i;
    ASSERT_TRUE(leaf->pte.dirty() && leaf->pte.young()) << i;
  }
  ExpectNothingStale(block);
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 1u);
  EXPECT_EQ(Load(PageOfBlock(block, 101)), 0u);
}

TEST_P(HugetlbTest, ADiscardOfAPartIsRefusedAndChangesNothing) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  for (const HvaRange part :
       {PageRangeOf(PageOfBlock(block, 37), 3), PageRangeOf(block.begin, 511)}) {
    EXPECT_TRUE(absl::IsInvalidArgument(side().hooks.Discard(part).status()));
  }
  EXPECT_EQ(LeafOf(block.begin)->level, 1u);
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 1u);
}

// MADV_REMOVE of a range that begins and ends inside of hugetlb pages: the event has the range as it
// was given, and the kernel removes whole pages only. What it does not remove stays there, as zeroes.
TEST_P(HugetlbFileTest, ARemovalThatIsNotAlignedTakesOnlyWholeHugetlbPages) {
  const RamSlot& last = side().memory->slots()[5];
  // Two neighbouring blocks, and a range from the middle of the first to the end of the second.
  const HvaRange first{last.hva, last.hva + kBlockBytes};
  const HvaRange second{first.end, first.end + kBlockBytes};
  for (const HvaRange block : {first, second}) {
    for (const uint64_t i : {10U, 400U}) Store(PageOfBlock(block, i), 5);
  }
  const HvaRange range{PageOfBlock(first, 300), second.end};
  ASSERT_EQ(ForeignMadvise(range, MADV_REMOVE), 0);
  EXPECT_TRUE(WaitUntil([&] { return stats().removes == 1; }));
  EXPECT_TRUE(side().pagemap.Read(PageOfBlock(first, 400)).present);
  EXPECT_FALSE(side().pagemap.Read(PageOfBlock(second, 10)).present);
  EXPECT_EQ(Load(PageOfBlock(first, 10)), 5u);
  EXPECT_EQ(Load(PageOfBlock(first, 400)), 0u);
  EXPECT_EQ(Load(PageOfBlock(second, 400)), 0u);
}

TEST_P(HugetlbTest, AWriteProtectedHugetlbPageIsLiftedAsAWhole) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, block).ok());
  EXPECT_FALSE(LeafOf(block.begin)->pte.writable());
  EXPECT_TRUE(LeafOf(block.begin)->pte.dirty());
  Store(PageOfBlock(block, 200), 9);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(block.begin)->pte.writable(); }));
  EXPECT_EQ(LeafOf(block.begin)->level, 1u);
  EXPECT_EQ(stats().wp, 1u);
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 1u);
}

TEST_P(ThpTest, AWriteToAProtectedTransparentHugePageSplitsItsLeaf) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, block).ok());
  Store(PageOfBlock(block, 200), 9);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(PageOfBlock(block, 200))->pte.writable(); }));
  EXPECT_FALSE(LeafOf(PageOfBlock(block, 201))->pte.writable());
  // Of a file, the kernel takes the whole huge page out of its table, and so the leaf goes as well.
  if (backing() == Backing::kAnon) {
    EXPECT_TRUE(LeafOf(PageOfBlock(block, 201))->pte.dirty());
  }
  ExpectNothingStale(block);
}

// The page that faults is not the one that the bracket is about: it must not wait.
TEST_P(HugePagesTest, BesideABracketOfAnotherPageTheFaultingPageComesAlone) {
  const HvaRange block = Block();
  BracketToken bracket =
      side().mmu.notifier().Begin({PageRangeOf(PageOfBlock(block, 300)), InvalidationKind::kUnmap});
  Store(PageOfBlock(block, 0), 3);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(PageOfBlock(block, 0)).has_value(); }));
  EXPECT_EQ(LeafOf(PageOfBlock(block, 0))->level, 0u);
  EXPECT_EQ(stats().blocks, 0u);
  EXPECT_EQ(stats().block_fallbacks, 1u);
  side().mmu.notifier().End(bracket);
  ExpectNothingStale(block);
}

// A page of the block has content of its own: a file's page, or one that came alone.
TEST_P(ThpTest, APageThatIsThereKeepsItsContent) {
  const HvaRange block = Block();
  ASSERT_EQ(side().uffd.CopyZeroes(PageOfBlock(block, 50)), UffdOutcome::kDone);
  Store(PageOfBlock(block, 50), 77);
  Store(PageOfBlock(block, 10), 3);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(PageOfBlock(block, 10)).has_value(); }));
  EXPECT_EQ(Load(PageOfBlock(block, 50)), 77u);
  EXPECT_EQ(Load(PageOfBlock(block, 51)), 0u);
  EXPECT_EQ(side().mmu.Stats().stage2.leaves_2m, 0u);
  ExpectNothingStale(block);
}

// Removed past all sources: the monitor finds it at the next fault.
TEST_P(HugetlbFileTest, AHugePageThatIsLostIsFoundAndComesBackWhole) {
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  PunchUnnoticed(block);
  EXPECT_EQ(Load(PageOfBlock(block, 37)), 0u);
  EXPECT_TRUE(WaitUntil([&] { return LeafOf(PageOfBlock(block, 37)).has_value(); }));
  EXPECT_GE(stats().lost_copies_repaired, 1u);
  ExpectNothingStale(block);
}

// The kernel names the beginning of the hugetlb page, and the reader has a page in the middle of it.
TEST_P(HugetlbFileTest, AReaderThatFaultsInABlockWhileABeginWaitsForItIsNoDeadlock) {
  const HvaRange block = Block();
  const Hva page = PageOfBlock(block, 37);
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block));
  if (IsSkipped()) return;
  std::thread hook;
  {
    Reader reader(side().mmu.readers());
    const TranslatedPage translated =
        side().mmu.Translate(reader, GpaOf(GfnOfPage(page)), Access::kRead);
    ASSERT_TRUE(static_cast<bool>(translated));
    PunchUnnoticed(block);
    hook = std::thread([&] {
      const absl::Status status = hooked::Madvise(block, MADV_DONTNEED);
      EXPECT_TRUE(status.ok()) << status;
    });
    ASSERT_TRUE(WaitUntil([&] { return side().mmu.in_flight().count() == 1; }));
    EXPECT_EQ(Load(page), 0u);
  }
  hook.join();
  ExpectNothingStale(block);
}

TEST_P(HugePagesTest, APageThatTheGuestNeverTouchesIsMappedByAnAccessOfTheMachine) {
  const HvaRange block = Block();
  Reader reader(side().mmu.readers());
  const uint64_t word = 12;
  ASSERT_TRUE(side()
                  .access
                  .Write(reader, GpaOf(GfnOfPage(PageOfBlock(block, 3))),
                         std::as_bytes(std::span(&word, 1)))
                  .ok());
  EXPECT_EQ(Load(PageOfBlock(block, 3)), 12u);
  ExpectNothingStale(block);
}

class CollapseTest : public HugePagesTest {};

// The host has one frame again, and so has stage-2. A split takes one page of the leaf.
TEST_P(CollapseTest, ACollapseGivesTheLeafOfABlockBackAndASplitTakesItApart) {
  const HvaRange block = Block();
  for (uint64_t i = 0; i < kBlockPages; i += 5) {
    Store(PageOfBlock(block, i), i + 1);
    if (thp()) static_cast<void>(side().hooks.Discard(PageRangeOf(PageOfBlock(block, 3))));
  }
  HugePageChurn churn(side().mmu, side().uffd, huge());
  const absl::StatusOr<ChurnOutcome> collapsed = churn.Collapse(slot(), block);
  ASSERT_TRUE(collapsed.ok()) << collapsed.status();
  if (*collapsed == ChurnOutcome::kDeclined) GTEST_SKIP() << "the host collapses nothing now";
  EXPECT_EQ(LeafOf(block.begin)->level, 1u);
  ExpectNothingStale(block);
  for (uint64_t i = 0; i < kBlockPages; i += 5) ASSERT_EQ(Load(PageOfBlock(block, i)), i + 1);
  const absl::StatusOr<ChurnOutcome> split = churn.Split(slot(), block);
  ASSERT_TRUE(split.ok()) << split.status();
  if (*split == ChurnOutcome::kDeclined) GTEST_SKIP() << "the host collapses nothing now";
  // Of a file all of the block was unmapped.
  if (const auto leaf = LeafOf(block.begin); leaf.has_value()) {
    EXPECT_EQ(leaf->level, 0u);
  }
  for (uint64_t i = 0; i < kBlockPages; i += 5) ASSERT_EQ(Load(PageOfBlock(block, i)), i + 1);
  ExpectNothingStale(block);
}

// The host swaps the huge page out as one, and the pages come back one by one, by the kernel's own faults.
class HugePageSwapTest : public HugePagesTest {};

TEST_P(HugePageSwapTest, AHugePageThatGoesToSwapSpaceAsAWholeComesBackWithItsContent) {
  UNDERFOOT_CHANGES_THE_HOST();
  if (pages_->changes() == nullptr) UNDERFOOT_SKIP("this user may not change the host");
  const absl::Status swap = pages_->changes()->AddSwap(uint64_t{64} << 20);
  if (!swap.ok()) UNDERFOOT_SKIP(std::string(swap.message()));
  const HvaRange block = Block();
  ASSERT_NO_FATAL_FAILURE(TouchBlock(block, 0));
  if (IsSkipped()) return;
  for (uint64_t i = 0; i < kBlockPages; i += 5) Store(PageOfBlock(block, i), i + 1);
  ASSERT_TRUE(hooked::Madvise(block, MADV_PAGEOUT).ok());
  EXPECT_FALSE(LeafOf(block.begin).has_value());
  EXPECT_FALSE(LeafOf(PageOfBlock(block, 511)).has_value());
  const std::vector<PagemapEntry> entries = EntriesOf(block);
  EXPECT_TRUE(std::none_of(entries.begin(), entries.end(), [](const PagemapEntry& entry) {
    return entry.present;
  })) << "the host has swapped nothing out";
  for (uint64_t i = 0; i < kBlockPages; ++i) {
    ASSERT_EQ(Load(PageOfBlock(block, i)), i % 5 == 0 ? i + 1 : 0) << i;
  }
  ExpectNothingStale(block);
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<Backing, HugePages>>& info) {
  return std::string(BackingName(std::get<0>(info.param))) + "_" +
         std::string(HugePagesName(std::get<1>(info.param)));
}

INSTANTIATE_TEST_SUITE_P(Backings, HugePagesTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::kThp, HugePages::k2M)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, HugeFileTest,
                         ::testing::Combine(::testing::Values(Backing::kMemfd),
                                            ::testing::Values(HugePages::kThp, HugePages::k2M)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, HugetlbFileTest,
                         ::testing::Combine(::testing::Values(Backing::kMemfd),
                                            ::testing::Values(HugePages::k2M)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, HugetlbTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::k2M)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, ThpTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::kThp)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, HugePageSwapTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::kThp)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Backings, CollapseTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::kOff, HugePages::kThp)),
                         NameOf);

// What the kernel does with huge pages, which the code relies on.
class HugePageKernelTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kIsHuge = uint64_t{1} << 6;  // PAGE_IS_HUGE of PAGEMAP_SCAN

  // Private memory at a multiple of 1 GiB, of that size.
  HvaRange MapGiant(int flags) {
    void* const base =
        MapAligned(kGiantBytes, kGiantBytes, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1);
    EXPECT_NE(base, MAP_FAILED);
    return {HvaOf(base), HvaOf(base) + kGiantBytes};
  }
  // Private memory of 2 blocks at a multiple of 2 MiB.
  HvaRange Map(int flags) {
    void* const base =
        MapAligned(2 * kBlockBytes, kBlockBytes, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1);
    EXPECT_NE(base, MAP_FAILED);
    return {HvaOf(base), HvaOf(base) + 2 * kBlockBytes};
  }
  bool IsHuge(HvaRange range) {
    newer::PagemapRegion region{};
    newer::PagemapScan scan{};
    scan.size = sizeof(scan);
    scan.start = range.begin.value;
    scan.end = range.end.value;
    scan.vec = HvaOf(&region).value;
    scan.vec_len = 1;
    scan.category_mask = kIsHuge;
    scan.return_mask = kIsHuge;
    const UniqueFd fd(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    return ioctl(fd.get(), newer::kPagemapScan, &scan) == 1 && region.start == range.begin.value &&
           region.end == range.end.value;
  }
};

TEST_F(HugePageKernelTest, AHugePageOfAPoolMovesAsItIsAndToAnotherPlaceOnlyInPieces) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  if (!uffd.ok()) UNDERFOOT_SKIP(std::string(uffd.status().message()));
  absl::StatusOr<std::unique_ptr<HugePagePool>> pool = HugePagePool::Create();
  ASSERT_TRUE(pool.ok()) << pool.status();
  const HvaRange to = Map(MAP_NORESERVE);
  ASSERT_TRUE(uffd->Register(to, Backing::kAnon).ok());
  for (const uint64_t offset : {uint64_t{0}, kPageSize}) {
    const HvaRange place{to.begin + offset, to.begin + offset + kBlockBytes};
    const std::optional<Hva> block = (*pool)->Take();
    ASSERT_TRUE(block.has_value());
    if (!IsHuge({*block, *block + kBlockBytes})) GTEST_SKIP() << "this host has no free huge page";
    const UffdProgress moved = uffd->MoveIn(*block, place);
    EXPECT_EQ(moved.outcome, UffdOutcome::kDone);
    EXPECT_EQ(moved.pages, kBlockPages);
    (*pool)->Return(*block, true);
    EXPECT_EQ(IsHuge(place), offset == 0);
    ASSERT_EQ(madvise(PointerOf(to.begin), to.size(), MADV_DONTNEED), 0);
  }
  munmap(PointerOf(to.begin), to.size());
}

TEST_F(HugePageKernelTest, HugetlbMemoryRefusesThePageOfZeroes) {
  const HostHugePages pages(HugePages::k2M, Backing::kAnon, 2 * kBlockBytes);
  if (!pages.why_not().empty()) UNDERFOOT_SKIP(pages.why_not());
  absl::StatusOr<Userfaultfd> uffd =
      Userfaultfd::Open({.events = UffdEvents::kNone, .page_bytes = kBlockBytes});
  if (!uffd.ok()) UNDERFOOT_SKIP(std::string(uffd.status().message()));
  const HvaRange range = Map(MAP_HUGETLB | (21 << MAP_HUGE_SHIFT));
  ASSERT_TRUE(uffd->Register(range, Backing::kAnon).ok());
  uffdio_zeropage zeroes{{range.begin.value, kBlockBytes}, 0, 0};
  EXPECT_EQ(ioctl(uffd->fd(), UFFDIO_ZEROPAGE, &zeroes), -1);
  EXPECT_EQ(errno, EINVAL);
  const UffdProgress copied = uffd->CopyZeroes(HvaRange{range.begin, range.begin + kBlockBytes});
  EXPECT_EQ(copied.outcome, UffdOutcome::kDone);
  EXPECT_EQ(copied.pages, kBlockPages);
  munmap(PointerOf(range.begin), range.size());
}

// The kernel has a second page of 1 GiB, to copy to meanwhile, only if another one is free.
TEST_F(HugePageKernelTest, AHugePageOf1GiBIsCopiedOnlyFromPagesThatAreThere) {
  const HostHugePages pages(HugePages::k1G, Backing::kAnon, kGiantBytes);
  if (!pages.why_not().empty()) GTEST_SKIP() << pages.why_not();
  absl::StatusOr<Userfaultfd> uffd =
      Userfaultfd::Open({.events = UffdEvents::kNone, .page_bytes = kGiantBytes});
  ASSERT_TRUE(uffd.ok()) << uffd.status();
  const HvaRange giant = MapGiant(MAP_HUGETLB | (30 << MAP_HUGE_SHIFT));
  const HvaRange absent = MapGiant(MAP_NORESERVE);
  ASSERT_TRUE(uffd->Register(giant, Backing::kAnon).ok());
  uffdio_copy copy{giant.begin.value, absent.begin.value, kGiantBytes, 0, 0};
  if (HugePageHost().PoolOf(HugePages::k1G)->available() == 0) {
    EXPECT_EQ(ioctl(uffd->fd(), UFFDIO_COPY, &copy), -1);
    EXPECT_EQ(errno, ENOMEM);
  }
  const UffdProgress zeroes = uffd->CopyZeroes(giant);
  EXPECT_EQ(zeroes.outcome, UffdOutcome::kDone);
  EXPECT_EQ(zeroes.pages, kGiantBytes >> kPageShift);
  munmap(PointerOf(giant.begin), giant.size());
  munmap(PointerOf(absent.begin), absent.size());
}

// With shmem_enabled=always one page that is written by the file makes 511 others appear in it.
TEST(ShmemAlwaysTest, PagesThatAppearWithoutACopyAreMappedAsTheyAre) {
  UNDERFOOT_CHANGES_THE_HOST();
  const auto changes = HostChanges::Take([](std::string_view) {});
  if (!changes.ok()) UNDERFOOT_SKIP(std::string(changes.status().message()));
  const absl::Status set = (*changes)->SetKnob(HugePagePlaces().thp + "/shmem_enabled", "always");
  if (!set.ok()) UNDERFOOT_SKIP(std::string(set.message()));
  {
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.backing = Backing::kMemfd});
    ASSERT_TRUE(side.ok()) << side.status();
    ASSERT_TRUE((*side)->ram->Start().ok());
    const RamSlot& slot = (*side)->memory->slots()[4];
    const Hva block{(slot.hva.value + kBlockBytes - 1) / kBlockBytes * kBlockBytes};
    const uint64_t offset = slot.gpa.value + (block - slot.hva);
    const uint64_t word = 4711;
    ASSERT_EQ(pwrite((*side)->memory->fd(), &word, sizeof(word), static_cast<off_t>(offset)),
              static_cast<ssize_t>(sizeof(word)));
    const auto load = [](Hva page) {
      return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(page))).load();
    };
    EXPECT_EQ(load(block), word);
    EXPECT_EQ(load(block + 9 * kPageSize), 0u);
    const UffdStats stats = (*side)->monitor.Stats();
    EXPECT_EQ(stats.minor, 2u) << "the second page was in the file too, though nobody wrote it";
    EXPECT_EQ(stats.missing, 0u);
  }
}

}  // namespace
}  // namespace underfoot::testing
