// The dirty log of a memslot, and what CollectDirty says of it.

#include "mmu/stage2/dirty_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mmu/pfn_cache.h"
#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<uint64_t> PagesOf(const DirtyBitmap& bitmap) {
  std::vector<uint64_t> pages;
  bitmap.ForEach([&](uint64_t page) { pages.push_back(page); });
  return pages;
}

TEST(DirtyLog, AMarkCoversItsPagesAcrossWords) {
  DirtyLog log(200);
  log.Mark(0, 1);
  log.Mark(62, 4);
  log.Mark(199, 1);
  const DirtyBitmap taken = log.Take();
  EXPECT_THAT(PagesOf(taken), ElementsAre(0u, 62u, 63u, 64u, 65u, 199u));
  EXPECT_EQ(taken.count(), 6u);
  EXPECT_TRUE(taken.Contains(65));
  EXPECT_FALSE(taken.Contains(66));
  EXPECT_THAT(taken.words(), ElementsAre(0xc000'0000'0000'0001u, 3u, 0u, 0x80u));
  EXPECT_EQ(log.Take().count(), 0u);
}

TEST(DirtyLog, AMarkOfWholeWordsIsAllOfThem) {
  DirtyLog log(256);
  log.Mark(64, 128);
  EXPECT_THAT(log.Take().words(), ElementsAre(0u, ~uint64_t{0}, ~uint64_t{0}, 0u));
}

class CollectDirtyTest : public MmuRig {
 protected:
  CollectDirtyTest() { SetLogging(true); }

  void SetLogging(bool on) { EXPECT_TRUE(mmu_.SetMemslotFlags(kSlot, {.log_dirty = on}).ok()); }
  std::vector<uint64_t> Collect() {
    const absl::StatusOr<DirtyBitmap> dirty = mmu_.CollectDirty(kSlot);
    EXPECT_TRUE(dirty.ok()) << dirty.status();
    return PagesOf(*dirty);
  }
  void Write(uint64_t page) {
    ASSERT_EQ(mmu_.faults().FaultIn(reader_, GfnAt(page), Access::kWrite).outcome,
              FaultInOutcome::kMapped);
  }
  void CreateLoggedSlot(uint32_t id, GfnRange gfns, Hva hva) {
    ASSERT_TRUE(
        mmu_.CreateMemslot({.id = id, .gfns = gfns, .hva = hva, .flags = {.log_dirty = true}})
            .ok());
  }
  // A dirty leaf of this level at the begin of slot kOther, which has `pages` pages.
  void MapDirtyLeaf(unsigned level, uint64_t pages) {
    const Gfn leaf{PagesAt(level)};
    ASSERT_NO_FATAL_FAILURE(CreateLoggedSlot(kOther, {leaf, leaf + pages}, kOthersHva));
    ASSERT_EQ(mmu_.stage2().TryClaim(leaf, level, Access::kWrite, reader_.tag()).outcome,
              ClaimOutcome::kClaimed);
    ASSERT_TRUE(mmu_.stage2().Publish(leaf, reader_.tag(),
                                      Pte::Leaf({PagesAt(level)}, Access::kWrite).Dirty()));
  }
  // Each page of the leaf is reported once, and once more after a write and a split.
  void ExpectAllPagesOfALeaf(unsigned level) {
    ASSERT_NO_FATAL_FAILURE(MapDirtyLeaf(level, PagesAt(level)));
    EXPECT_EQ(mmu_.CollectDirty(kOther)->count(), PagesAt(level));
    EXPECT_EQ(mmu_.CollectDirty(kOther)->count(), 0u);
    EXPECT_TRUE(mmu_.Translate(reader_, GpaOf(Gfn{PagesAt(level)} + 5), Access::kWrite));
    {
      const HvaRange part = PageRangeOf(kOthersHva + 7 * kPageSize, 2);
      InvalidationScope scope(mmu_.notifier(), {part, InvalidationKind::kUnmap});
    }
    EXPECT_EQ(mmu_.Stats().stage2.leaves_4k, PagesAt(1) - 2);
    EXPECT_EQ(mmu_.CollectDirty(kOther)->count(), PagesAt(level));
    EXPECT_EQ(mmu_.CollectDirty(kOther)->count(), 0u);
  }

  static constexpr uint32_t kOther = 9;
  static constexpr Hva kOthersHva{0x4000'0000};
};

TEST_F(CollectDirtyTest, AWriteIsReportedOnceAndTheNextOneAgain) {
  Write(5);
  ASSERT_EQ(Fault(6), FaultOutcome::kMapped);
  EXPECT_THAT(Collect(), ElementsAre(5u));
  EXPECT_THAT(Collect(), IsEmpty());
  EXPECT_FALSE(LeafOf(5)->dirty());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_THAT(Collect(), IsEmpty());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_THAT(Collect(), ElementsAre(5u));
}

TEST_F(CollectDirtyTest, AnUnmappedPageStaysReported) {
  Write(5);
  Write(6);
  ASSERT_EQ(Fault(7), FaultOutcome::kMapped);
  Invalidate(5, 3);
  EXPECT_THAT(Collect(), ElementsAre(5u, 6u));
}

TEST_F(CollectDirtyTest, AProtectedPageStaysReported) {
  Write(5);
  Invalidate(5, 1, InvalidationKind::kProtect);
  EXPECT_THAT(Collect(), ElementsAre(5u));
}

TEST_F(CollectDirtyTest, AWriteThroughACacheIsReportedAfterMarkDirty) {
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(5), 2 * kPageSize, Access::kWrite).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u, 6u));  // the permission was taken
  EXPECT_TRUE(cache.Check(reader_));
  EXPECT_THAT(Collect(), IsEmpty());
  for (int round = 0; round < 2; ++round) {
    cache.Check(reader_).MarkDirty();
    EXPECT_THAT(Collect(), ElementsAre(5u, 6u));
  }
  cache.Deactivate();
}

TEST_F(CollectDirtyTest, ACacheKeyedByHvaLogsNothing) {
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(5), 64, Access::kWrite).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u));
  ASSERT_TRUE(cache.Activate(reader_, host_.PageAt(5), 64, Access::kWrite).ok());
  cache.Check(reader_).MarkDirty();
  EXPECT_THAT(Collect(), IsEmpty());
  cache.Deactivate();
}

TEST_F(CollectDirtyTest, AliasesHaveALogEach) {
  CreateLoggedSlot(kOther, {{0x8000}, {0x8004}}, host_.PageAt(4));
  Write(5);
  ASSERT_EQ(mmu_.faults().HandleFault(reader_, {0x8002}, Access::kWrite).outcome,
            FaultOutcome::kMapped);
  Invalidate(4, 4);
  EXPECT_THAT(Collect(), ElementsAre(5u));
  EXPECT_THAT(PagesOf(*mmu_.CollectDirty(kOther)), ElementsAre(2u));
}

TEST_F(CollectDirtyTest, ALogStartsEmptyWhenItIsTurnedOn) {
  SetLogging(false);
  Write(5);
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(6), 64, Access::kWrite).ok());
  SetLogging(true);
  EXPECT_THAT(Collect(), IsEmpty());
  EXPECT_FALSE(cache.Check(reader_));  // it would not know of the log
  ASSERT_EQ(cache.Refresh(reader_), RefreshOutcome::kValid);
  EXPECT_THAT(Collect(), ElementsAre(6u));
  cache.Check(reader_).MarkDirty();
  EXPECT_THAT(Collect(), ElementsAre(6u));
  SetLogging(false);
  ASSERT_EQ(cache.Refresh(reader_), RefreshOutcome::kValid);
  cache.Check(reader_).MarkDirty();  // nowhere
  cache.Deactivate();
}

TEST_F(CollectDirtyTest, AMovedSlotTakesItsLogAlong) {
  Write(5);
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(9), 64, Access::kWrite).ok());
  ASSERT_TRUE(mmu_.MoveMemslot(kSlot, kFirst + 2).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u, 9u));
  ASSERT_EQ(cache.Refresh(reader_), RefreshOutcome::kValid);
  EXPECT_THAT(Collect(), ElementsAre(7u));  // the same gpa is another page of the slot now
  cache.Deactivate();
}

TEST_F(CollectDirtyTest, ASlotCreatedAgainHasAnEmptyLog) {
  Write(5);
  ASSERT_TRUE(mmu_.DeleteMemslot(kSlot).ok());
  CreateLoggedSlot(kSlot, {kFirst, kFirst + kPages}, host_.PageAt(0));
  EXPECT_THAT(Collect(), IsEmpty());
}

TEST_F(CollectDirtyTest, ACollectionThatIsGivenBackIsReportedAgainWithWhatCameMeanwhile) {
  Write(5);
  const absl::StatusOr<DirtyBitmap> unused = mmu_.CollectDirty(kSlot);
  ASSERT_TRUE(unused.ok());
  Write(6);
  ASSERT_TRUE(mmu_.GiveBackDirty(kSlot, *unused).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u, 6u));
  EXPECT_THAT(Collect(), IsEmpty());
}

TEST_F(CollectDirtyTest, AWriteToAPageThatWasGivenBackIsReportedByTheCollectionAfterItToo) {
  Write(5);
  const absl::StatusOr<DirtyBitmap> unused = mmu_.CollectDirty(kSlot);
  ASSERT_TRUE(unused.ok());
  ASSERT_TRUE(mmu_.GiveBackDirty(kSlot, *unused).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u));
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_THAT(Collect(), ElementsAre(5u));
}

TEST_F(CollectDirtyTest, GivingBackNeedsASlotWithALogOfThatSize) {
  const DirtyBitmap pages(std::vector<uint64_t>(DirtyBitmap::WordsFor(kPages)));
  EXPECT_EQ(mmu_.GiveBackDirty(9, pages).code(), absl::StatusCode::kNotFound);
  const DirtyBitmap larger(std::vector<uint64_t>(DirtyBitmap::WordsFor(kPages) + 1));
  const absl::Status wrong = mmu_.GiveBackDirty(kSlot, larger);
  EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("the bitmap that is given back"));
  SetLogging(false);
  EXPECT_EQ(mmu_.GiveBackDirty(kSlot, pages).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CollectDirtyTest, ADeletedSlotReturnsItsLastPages) {
  Write(5);
  PfnCache cache(mmu_, "cache");
  ASSERT_TRUE(cache.Activate(reader_, GpaAt(9), 64, Access::kWrite).ok());
  EXPECT_THAT(Collect(), ElementsAre(5u, 9u));
  Write(6);
  Write(7);
  Invalidate(7, 1);  // in the log, and no more in a leaf
  cache.Check(reader_).MarkDirty();
  const absl::StatusOr<DirtyBitmap> last = mmu_.DeleteMemslotCollecting(kSlot);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_THAT(PagesOf(*last), ElementsAre(6u, 7u, 9u));
  EXPECT_EQ(mmu_.CollectDirty(kSlot).status().code(), absl::StatusCode::kNotFound);
  cache.Deactivate();
}

TEST_F(CollectDirtyTest, ASlotWithoutALogIsNotDeletedCollecting) {
  SetLogging(false);
  EXPECT_EQ(mmu_.DeleteMemslotCollecting(kSlot).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(mmu_.SetMemslotFlags(kSlot, {.log_dirty = true}).ok()) << "it is still there";
  EXPECT_EQ(mmu_.DeleteMemslotCollecting(9).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CollectDirtyTest, ADirtyBlockReportsAllItsPagesAlsoWhenItIsSplit) {
  ExpectAllPagesOfALeaf(1);
}

TEST_F(CollectDirtyTest, ADirtyLeafOf1GiBReportsAllItsPagesAlsoWhenItIsSplit) {
  ExpectAllPagesOfALeaf(2);
}

// Such a leaf is dirty for the sake of another slot's pages too: it is reported too often instead.
TEST_F(CollectDirtyTest, ABlockThatReachesOutOfTheSlotStaysDirty) {
  ASSERT_NO_FATAL_FAILURE(MapDirtyLeaf(1, 3));
  EXPECT_THAT(PagesOf(*mmu_.CollectDirty(kOther)), ElementsAre(0u, 1u, 2u));
  EXPECT_THAT(PagesOf(*mmu_.CollectDirty(kOther)), ElementsAre(0u, 1u, 2u));
}

TEST_F(CollectDirtyTest, AnImpossibleCollectionIsAnErrorWithTheReason) {
  const absl::Status unknown = mmu_.CollectDirty(9).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("memslot 9 does not exist"));
  SetLogging(false);
  const absl::Status off = mmu_.CollectDirty(kSlot).status();
  EXPECT_EQ(off.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(off.message()), HasSubstr("log_dirty is off"));
}

}  // namespace
}  // namespace underfoot::testing
