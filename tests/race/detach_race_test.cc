// A table that an unmap detaches whole (P2), against threads that found the table before: readers,
// installers, and other unmaps.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <optional>
#include <string_view>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "tests/race/staging.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr Gfn kTableBegin{8 * k2M};
constexpr GfnRange kTable{kTableBegin, kTableBegin + k2M};
constexpr OwnerTag kOwner = 7;

class DetachRaceTest : public ::testing::Test {
 protected:
  DetachRaceTest() {
    const absl::Status created =
        mmu_.CreateMemslot({.id = 1, .gfns = kTable, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
    FaultIn(0);
  }
  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(stage2()), "");
    EXPECT_EQ(mmu_.Stats().stage2.maps + lost_claims_,
              mmu_.Stats().stage2.unmaps + mmu_.Stats().stage2.leaves_4k);
    EXPECT_EQ(stage2().RetiredStats().pending_tables, 0u);
  }

  Stage2& stage2() { return mmu_.stage2(); }
  void FaultIn(uint64_t page) {
    Reader reader(mmu_.readers());
    ASSERT_EQ(mmu_.faults().FaultIn(reader, kTableBegin + page, Access::kRead).outcome,
              FaultInOutcome::kMapped);
  }
  bool Mapped(uint64_t page) {
    rcu::ReadScope rcu;
    return stage2().Lookup(kTableBegin + page).has_value();
  }
  void UnmapRange(GfnRange range) {
    MmuGather gather;
    stage2().Unmap(range, gather);
    stage2().Finish(gather);
  }
  // The host moves all pages of the table.
  void MoveAll() {
    InvalidationScope bracket(mmu_.notifier(), {host_.range(), InvalidationKind::kUnmap});
    host_.Move(host_.range());
  }
  // The host moves all pages while `reader` is stopped at `inside`, in a section. It stops at `used` too, when
  // it has its pages.
  void MoveAllBeside(Task& reader, Gate& inside, Gate& used) {
    ASSERT_TRUE(StopsAt(inside, reader));
    Gate waits("reader-wait");
    Task begin("begin", [&] { MoveAll(); });
    ASSERT_TRUE(StopsAt(waits, begin));
    EXPECT_EQ(stage2().Stats().tables, 1u) << "no look-up finds the table any more";
    inside.Open();
    ASSERT_TRUE(StopsAt(used, reader));
    waits.Open();
    used.Open();
    reader.Join();
    begin.Join();
  }
  // Page 5 is claimed by kOwner.
  void Claim() {
    ASSERT_EQ(stage2().TryClaim(kTableBegin + 5, 0, Access::kRead, kOwner).outcome,
              ClaimOutcome::kClaimed);
  }
  bool Publish() {
    return stage2().Publish(kTableBegin + 5, kOwner, Pte::Leaf({0x55}, Access::kRead));
  }

  FakeHost host_{k2M};
  Mmu mmu_{host_};
  unsigned lost_claims_ = 0;  // went with a table
};

//   reader                          Begin
//   in a section; has read the entry of the parent
//                                   detaches the table; waits for the reader
//   finds its leaf and uses the page
//   leaves the section
//                                   the pages move
TEST_F(DetachRaceTest, ABeginWaitsForAReaderThatHasFoundTheTable) {
  std::atomic<unsigned> levels = 0;
  SetSyncPoint("walk-down", [&] {
    if (++levels == kLevels - 1) PassSyncPoint("above-the-leaf");
  });
  Gate above("above-the-leaf");
  std::atomic<bool> reads = false;
  Gate used("page-is-used");
  Task reader("reader", [&] {
    Reader own(mmu_.readers());
    const TranslatedPage page = mmu_.Translate(own, GpaOf(kTableBegin), Access::kRead);
    reads = static_cast<bool>(page);
    PassSyncPoint("page-is-used");
    if (!reads) return;
    EXPECT_EQ(page.pfn(), host_.PfnOf(host_.PageAt(0))) << "the page moved under a reader";
  });
  MoveAllBeside(reader, above, used);
  EXPECT_TRUE(reads);
}

//   reader of two pages             Begin
//   in a section; has marked the first
//                                   detaches the table; waits for the reader
//   marks the second, in the table that is gone
//   leaves the section
//                                   the pages move
TEST_F(DetachRaceTest, ABeginWaitsForAReaderInTheMiddleOfTheTable) {
  FaultIn(1);
  const Pfn frame = host_.PfnOf(host_.PageAt(1));
  Gate between("neighbour-entry");
  Gate used("pages-are-marked");
  std::atomic<uint64_t> marked = 0;
  Task reader("reader", [&] {
    Reader own(mmu_.readers());
    const RangeSection section(own, {host_.PageAt(0), host_.PageAt(2)});
    marked = mmu_.MarkUsed(section, {kTableBegin, kTableBegin + 2}, Access::kRead);
    PassSyncPoint("pages-are-marked");
    EXPECT_EQ(host_.PfnOf(host_.PageAt(1)), frame) << "the page moved under a reader";
  });
  MoveAllBeside(reader, between, used);
  EXPECT_EQ(marked, 2u);
}

//   section over two pages          Begin
//   has found the leaf of the first
//                                   detaches the table; waits for the section
//   reads the leaf of the second, in the table that is gone
//   leaves the section
//                                   the pages move
TEST_F(DetachRaceTest, ABeginWaitsForASectionThatKnowsTheTable) {
  FaultIn(1);
  const Pfn frame = host_.PfnOf(host_.PageAt(1));
  Gate between("neighbour-entry");
  Gate used("pages-are-used");
  std::atomic<size_t> found = 0;
  Task reader("reader", [&] {
    Reader own(mmu_.readers());
    std::array<PagePiece, 2> pieces{{{GpaOf(kTableBegin)}, {GpaOf(kTableBegin + 1)}}};
    const RangeSection section(own, {host_.PageAt(0), host_.PageAt(2)});
    found = mmu_.Translate(section, pieces);
    PassSyncPoint("pages-are-used");
    EXPECT_EQ(host_.PfnOf(host_.PageAt(1)), frame) << "the page moved under a reader";
  });
  MoveAllBeside(reader, between, used);
  EXPECT_EQ(found, 2u);
}

//   installer                       bracket
//   claims a page
//                                   Begin detaches the table; the pages move; End
//   no bracket is in flight; page-in; its claim is not found from the root
TEST_F(DetachRaceTest, AClaimThatGoesWithItsTableIsNotPublished) {
  for (const std::string_view point : {"fault-claimed", "fault-after-page-in"}) {
    FaultIn(0);
    Gate gate(point);
    std::optional<FaultOutcome> outcome;
    Task installer("installer", [&] {
      Reader own(mmu_.readers());
      outcome = mmu_.faults().HandleFault(own, kTableBegin + 5, Access::kRead).outcome;
    });
    ASSERT_TRUE(StopsAt(gate, installer));
    MoveAll();
    gate.Open();
    installer.Join();
    EXPECT_EQ(outcome, FaultOutcome::kAgain) << point;
    EXPECT_FALSE(Mapped(5)) << point;
    ++lost_claims_;
  }
}

//   installer                       unmap
//   has found a table with room
//                                   detaches the table
//   claims an entry of the detached table
//   publication: from the root, it finds nothing
TEST_F(DetachRaceTest, AClaimInADetachedTableIsNeverPublished) {
  Gate gate("claim-hole");
  Task installer("installer", [&] {
    Claim();
    EXPECT_FALSE(Publish());
    EXPECT_FALSE(stage2().Abandon(kTableBegin + 5, kOwner));
  });
  ASSERT_TRUE(StopsAt(gate, installer));
  UnmapRange(kTable);
  gate.Open();
  installer.Join();
  EXPECT_FALSE(Mapped(5));
  EXPECT_EQ(stage2().Stats().tables, 1u);
  ++lost_claims_;
  FaultIn(5);
}

//   installer                       unmap
//   publication: finds its claim
//                                   detaches the table
//   the claim becomes a leaf of the detached table
//                                   after the grace period: counts the leaf
TEST_F(DetachRaceTest, ALeafThatIsPublishedInADetachedTableIsCounted) {
  Claim();
  Gate gate("publish-exchange");
  bool published = false;
  Task installer("installer", [&] { published = Publish(); });
  ASSERT_TRUE(StopsAt(gate, installer));
  UnmapRange(kTable);
  gate.Open();
  installer.Join();
  EXPECT_TRUE(published);
  EXPECT_FALSE(Mapped(5));
  rcu::Barrier();
  EXPECT_EQ(stage2().Stats().unmaps, 2u);
}

//   unmap of page 0                 unmap of the whole table
//   has found the leaf
//                                   detaches the table
//   removes the leaf from the detached table, which is empty now
TEST_F(DetachRaceTest, APageThatGoesFromADetachedTableIsCountedOnce) {
  Gate gate("unmap-leaf");
  Task part("unmap of a page", [&] { UnmapRange({kTableBegin, kTableBegin + 1}); });
  ASSERT_TRUE(StopsAt(gate, part));
  UnmapRange(kTable);
  gate.Open();
  part.Join();
  EXPECT_EQ(stage2().RetiredStats().retired, 3u);
  rcu::Barrier();
  EXPECT_EQ(stage2().Stats().unmaps, 1u);
}

//   unmap of the whole table        another one
//   has found the table
//                                   detaches the table
//                                   (installer: a new table)
//   the compare-exchange fails; reads the entry again; detaches the new table
TEST_F(DetachRaceTest, ATableThatTwoThreadsDetachIsRetiredOnce) {
  // A neighbour keeps the tables above.
  ASSERT_EQ(stage2().TryClaim(kTable.end, 0, Access::kRead, kOwner).outcome,
            ClaimOutcome::kClaimed);
  ASSERT_TRUE(stage2().Publish(kTable.end, kOwner, Pte::Leaf({0x77}, Access::kRead)));
  for (const bool new_table : {false, true}) {
    const uint64_t retired = stage2().RetiredStats().retired;
    Gate gate("unmap-detach");
    Task first("first unmap", [&] { UnmapRange(kTable); });
    ASSERT_TRUE(StopsAt(gate, first));
    UnmapRange(kTable);
    if (new_table) FaultIn(0);
    gate.Open();
    first.Join();
    EXPECT_FALSE(Mapped(0));
    EXPECT_EQ(stage2().RetiredStats().retired, retired + (new_table ? 2u : 1u));
    FaultIn(0);
  }
}

//   unmap of page 0                 unmap of the whole table
//   the table is dead
//                                   detaches the dead table
//   tries to unlink it: the other thread was faster
TEST_F(DetachRaceTest, ATableThatDiesWhileItIsDetachedIsRetiredOnce) {
  Gate detach("unmap-detach");
  Task whole("unmap of the table", [&] { UnmapRange(kTable); });
  ASSERT_TRUE(StopsAt(detach, whole));
  Gate killed("table-killed");
  Task part("unmap of a page", [&] { UnmapRange({kTableBegin, kTableBegin + 1}); });
  ASSERT_TRUE(StopsAt(killed, part));
  detach.Open();
  whole.Join();
  killed.Open();
  part.Join();
  EXPECT_EQ(stage2().RetiredStats().retired, 3u);
  rcu::Barrier();
  EXPECT_EQ(stage2().Stats().unmaps, 1u);
}

//   walker                          unmap
//   in the table
//                                   detaches the table
//   leaves its read section
//                                   the table is freed
TEST_F(DetachRaceTest, AParkedWalkerKeepsTheMemoryOfADetachedTable) {
  Gate gate("walk-down");
  Task walker("walker", [&] { static_cast<void>(Mapped(0)); });
  ASSERT_TRUE(StopsAt(gate, walker));
  UnmapRange(kTable);
  EXPECT_EQ(stage2().RetiredStats().pending_bytes, 3 * sizeof(Table));
  EXPECT_EQ(stage2().Stats().leaves_4k, 1u) << "counted until the table is freed";
  gate.Open();
  walker.Join();
  rcu::Barrier();
  EXPECT_EQ(stage2().RetiredStats().freed, 3u);
  EXPECT_EQ(stage2().Stats().leaves_4k, 0u);
}

}  // namespace
}  // namespace underfoot::testing
