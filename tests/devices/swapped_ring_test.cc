// Rings in swap space: nothing but an access brings their pages back, no userfault tells of it, and the
// driver accesses none of them while it waits for an answer.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "tests/devices/queue_test.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/host/host_changes.h"

namespace underfoot::testing {
namespace {

using virtio::QueueOutcome;

bool HostHasSwapSpace() {
  struct sysinfo host = {};
  return sysinfo(&host) == 0 && host.freeswap != 0;
}

class SwappedRingTest : public QueueTest {
 protected:
  static constexpr uint64_t kRingPages = 3;  // descriptors, available, used

  void SetUp() override {
    if (!HostHasSwapSpace()) {
      UNDERFOOT_CHANGES_THE_HOST();
      auto changes = HostChanges::Take([](std::string_view) {});
      if (!changes.ok()) UNDERFOOT_SKIP(std::string(changes.status().message()));
      changes_ = *std::move(changes);
      const absl::Status added = changes_->AddSwap(uint64_t{16} << 20);
      if (!added.ok()) UNDERFOOT_SKIP(std::string(added.message()));
    }
    QueueTest::SetUp();
  }

  // As a bracket of this process does it. The kernel may have a page in a batch of its own for a while,
  // and leaves it then.
  void SwapOut(uint64_t i) {
    BracketToken bracket = mmu().notifier().Begin({side().Pages(i)});
    EXPECT_TRUE(WaitUntil([&] {
      madvise(PointerOf(side().PageAt(i)), kPageSize, MADV_PAGEOUT);
      return side().EntryOf(i).swapped;
    }));
    mmu().notifier().End(bracket);
  }

  std::unique_ptr<HostChanges> changes_;
};

TEST_P(SwappedRingTest, IsServedWithoutAnyOtherAccessToIt) {
  Start();
  for (uint64_t page = 0; page < kRingPages; ++page) {
    driver().SetChain(3, {Readable(kData, 16), Writable(kData + 1, 33)});
    driver().Offer(3);
    SwapOut(page);
    ASSERT_TRUE(WaitUntil([&] { return Pop() == QueueOutcome::kDone; })) << page;
    SwapOut(page);
    ASSERT_TRUE(WaitUntil([&] { return Publish(3, 33) == QueueOutcome::kDone; })) << page;
    ASSERT_TRUE(driver().Take().has_value()) << page;
  }
}

// Only of private memory is there a swap entry where the page was.
INSTANTIATE_TEST_SUITE_P(UNDERFOOT_TEST_BACKINGS, SwappedRingTest,
                         ::testing::Values(Backing::kAnon), BackingOf);

}  // namespace
}  // namespace underfoot::testing
