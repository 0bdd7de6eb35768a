// Guest pages in swap space: nothing but an access brings them back, and no userfault tells of it.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "mmu/pfn_cache.h"
#include "mmu/readers/reader.h"
#include "tests/memory/memory_test.h"
#include "vmm/host/host_changes.h"
#include "vmm/ram/guest_page_source.h"

namespace underfoot::testing {
namespace {

bool HostHasSwapSpace() {
  struct sysinfo host = {};
  return sysinfo(&host) == 0 && host.freeswap != 0;
}

// Only of private memory is there a swap entry where the page was.
class SwappedPagesTest : public MemoryTest {
 protected:
  void SetUp() override {
    if (!HostHasSwapSpace()) {
      UNDERFOOT_CHANGES_THE_HOST();
      auto changes = HostChanges::Take([](std::string_view) {});
      if (!changes.ok()) UNDERFOOT_SKIP(std::string(changes.status().message()));
      changes_ = *std::move(changes);
      const absl::Status added = changes_->AddSwap(uint64_t{16} << 20);
      if (!added.ok()) UNDERFOOT_SKIP(std::string(added.message()));
    }
    MemoryTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    StartMonitor();
  }

  // The kernel may have a page in a batch of its own for a while, and leaves it then.
  void SwapOut(uint64_t i) {
    ASSERT_TRUE(WaitUntil([&] {
      madvise(PointerOf(side().PageAt(i)), kPageSize, MADV_PAGEOUT);
      return side().EntryOf(i).swapped;
    }));
  }

  std::unique_ptr<HostChanges> changes_;
};

TEST_P(SwappedPagesTest, APageInReadsThePageBack) {
  side().Store(0, 7);
  SwapOut(0);
  const PageInResult in = side().source.PageIn(side().PageAt(0), Access::kWrite, nullptr);
  EXPECT_EQ(in.outcome, PageInOutcome::kPresent);
  const PagemapEntry entry = side().EntryOf(0);
  EXPECT_TRUE(entry.present);
  EXPECT_EQ(in.pfn, entry.pfn);
  EXPECT_EQ(side().Load(0), 7u);
}

// It might wait for itself.
TEST_P(SwappedPagesTest, AHandlerOfAFaultLeavesThePageToItsReader) {
  side().Store(0, 7);
  SwapOut(0);
  GuestPageSource::Fault fault(side().PageAt(0), GuestPageSource::Fault::Kind::kUnknown);
  EXPECT_EQ(side().source.PageIn(side().PageAt(0), Access::kRead, &fault).outcome,
            PageInOutcome::kRemovalPending);
  EXPECT_TRUE(side().EntryOf(0).swapped);
  EXPECT_EQ(side().Load(0), 7u);
}

// The page is used through the cache only, as the worker of a device uses a ring.
TEST_P(SwappedPagesTest, ACacheOfThePageComesBackWithoutAnyOtherAccess) {
  Reader reader(mmu().readers());
  PfnCache cache(mmu(), "ring");
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(0), kPageSize, Access::kWrite).ok());
  side().Store(0, 7);
  BracketToken bracket = mmu().notifier().Begin({side().Pages(0)});
  SwapOut(0);
  mmu().notifier().End(bracket);
  EXPECT_EQ(cache.Refresh(reader), RefreshOutcome::kValid);
  EXPECT_FALSE(side().EntryOf(0).swapped);
  EXPECT_EQ(side().Load(0), 7u);
  cache.Deactivate();
}

TEST_P(SwappedPagesTest, AnAccessOfTheMachineReadsThePageBack) {
  Reader reader(mmu().readers());
  side().Store(0, 7);
  SwapOut(0);
  std::array<std::byte, sizeof(uint64_t)> word{};
  ASSERT_TRUE(side().access.Read(reader, side().GpaAt(0), word).ok());
  EXPECT_EQ(word[0], std::byte{7});
}

INSTANTIATE_TEST_SUITE_P(UNDERFOOT_TEST_BACKINGS, SwappedPagesTest,
                         ::testing::Values(Backing::kAnon), BackingOf);

}  // namespace
}  // namespace underfoot::testing
