#include "mmu/translate.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

using TranslateTest = MmuRig;

TEST_F(TranslateTest, WhatIsNotMappedIsNotTranslated) {
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_FALSE(mmu_.Translate(reader_, GpaOf(kNowhere), Access::kRead));
  EXPECT_FALSE(reader_.InSection());
}

TEST_F(TranslateTest, AMappedPageIsFoundAtItsByte) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  TranslatedPage page = mmu_.Translate(reader_, GpaAt(5) + 0x123, Access::kRead);
  ASSERT_TRUE(page);
  EXPECT_EQ(page.hva(), host_.PageAt(5) + 0x123);
  EXPECT_EQ(page.data(), PointerOf(host_.PageAt(5) + 0x123));
  EXPECT_EQ(page.pfn(), PfnNow(5));
  EXPECT_TRUE(reader_.InSection());
  EXPECT_TRUE(mmu_.readers().AnySectionOverlapsUnsafe(host_.Pages(5)));
  EXPECT_FALSE(mmu_.readers().AnySectionOverlapsUnsafe(host_.Pages(6)));
  page = {};
  EXPECT_FALSE(reader_.InSection());
}

TEST_F(TranslateTest, AWriteMakesTheLeafDirty) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_FALSE(LeafOf(5)->dirty());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_TRUE(LeafOf(5)->dirty());
}

TEST_F(TranslateTest, AReadMakesTheLeafYoung) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  EXPECT_FALSE(LeafOf(5)->young());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
  EXPECT_TRUE(mmu_.notifier().TestClearYoung(host_.Pages(5), false));
}

TEST_F(TranslateTest, AReadOnlyLeafIsNotWritten) {
  host_.GrantOnlyWhatIsAskedFor();
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(5), Access::kWrite));
  EXPECT_FALSE(LeafOf(5)->dirty());
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
}

TEST_F(TranslateTest, NothingIsTranslatedAfterABegin) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  InvalidationScope scope(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kUnmap});
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(5), Access::kRead));
}

TEST_F(TranslateTest, APageOfABlockIsFoundInside) {
  FakeHost others(PagesAt(1));
  constexpr Gfn kBlock{0x200};
  ASSERT_TRUE(
      mmu_.CreateMemslot({.id = 9, .gfns = {kBlock, kBlock + PagesAt(1)}, .hva = others.PageAt(0)})
          .ok());
  ASSERT_EQ(mmu_.stage2().TryClaim(kBlock, 1, Access::kRead, reader_.tag()).outcome,
            ClaimOutcome::kClaimed);
  ASSERT_TRUE(mmu_.stage2().Publish(kBlock, reader_.tag(), Pte::Leaf({0x40000}, Access::kRead)));
  TranslatedPage page = mmu_.Translate(reader_, GpaOf(kBlock + 7), Access::kRead);
  ASSERT_TRUE(page);
  EXPECT_EQ(page.pfn(), Pfn{0x40007});
  EXPECT_EQ(page.hva(), others.PageAt(7));
}

TEST_F(TranslateTest, SeveralPagesMayBeOpenAtOnce) {
  ASSERT_EQ(Fault(5), FaultOutcome::kMapped);
  ASSERT_EQ(Fault(6), FaultOutcome::kMapped);
  TranslatedPage from = mmu_.Translate(reader_, GpaAt(5), Access::kRead);
  TranslatedPage to = mmu_.Translate(reader_, GpaAt(6), Access::kWrite);
  ASSERT_TRUE(from && to);
  std::memcpy(to.data(), from.data(), kPageSize);
}

TEST_F(TranslateTest, OneSectionTranslatesManyPages) {
  for (const uint64_t page : {5, 6, 9}) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  std::array<PagePiece, 4> pieces{{{GpaAt(9) + 1, Access::kRead},
                                   {GpaAt(5) + 2, Access::kWrite},
                                   {GpaAt(5) + 3, Access::kRead},
                                   {GpaAt(6) + 4, Access::kRead}}};
  const RangeSection section(reader_, host_.Pages(5, 5));
  ASSERT_EQ(mmu_.Translate(section, pieces), pieces.size());
  EXPECT_EQ(pieces[0].data, PointerOf(host_.PageAt(9) + 1));
  EXPECT_EQ(pieces[1].data, PointerOf(host_.PageAt(5) + 2));
  EXPECT_EQ(pieces[2].data, PointerOf(host_.PageAt(5) + 3));
  EXPECT_EQ(pieces[3].data, PointerOf(host_.PageAt(6) + 4));
  EXPECT_TRUE(LeafOf(5)->dirty());
  EXPECT_FALSE(LeafOf(6)->dirty());
  EXPECT_TRUE(mmu_.readers().AnySectionOverlapsUnsafe(host_.Pages(7)));
}

TEST_F(TranslateTest, ASectionEndsAtThePageThatItCannotHave) {
  for (const uint64_t page : {5, 7}) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  const RangeSection section(reader_, host_.Pages(5, 3));
  std::array<PagePiece, 3> absent{{{GpaAt(5)}, {GpaAt(6)}, {GpaAt(7)}}};
  EXPECT_EQ(mmu_.Translate(section, absent), 1u);
  std::array<PagePiece, 2> nowhere{{{GpaOf(kNowhere)}, {GpaAt(5)}}};
  EXPECT_EQ(mmu_.Translate(section, nowhere), 0u);
}

// No Begin would wait for it.
TEST_F(TranslateTest, APageThatIsNotAnnouncedIsNotUsed) {
  for (const uint64_t page : {4, 5, 6, 7}) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  const RangeSection section(reader_, host_.Pages(5, 2));
  std::array<PagePiece, 3> pieces{{{GpaAt(6)}, {GpaAt(7)}, {GpaAt(5)}}};
  EXPECT_EQ(mmu_.Translate(section, pieces), 1u);
  std::array<PagePiece, 1> before{{{GpaAt(4)}}};
  EXPECT_EQ(mmu_.Translate(section, before), 0u);
}

TEST_F(TranslateTest, PagesAreMarkedUpToTheFirstThatIsMissing) {
  for (const uint64_t page : {5, 6, 8}) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  const RangeSection section(reader_, host_.Pages(4, 6));
  EXPECT_EQ(mmu_.MarkUsed(section, {GfnAt(5), GfnAt(9)}, Access::kWrite), 2u);
  EXPECT_TRUE(LeafOf(5)->dirty() && LeafOf(6)->dirty());
  EXPECT_FALSE(LeafOf(8)->dirty()) << "behind a page that is missing";
  EXPECT_EQ(mmu_.MarkUsed(section, {GfnAt(8), GfnAt(9)}, Access::kRead), 1u);
  EXPECT_FALSE(LeafOf(8)->dirty()) << "a read";
  EXPECT_EQ(mmu_.MarkUsed(section, {kNowhere, kNowhere + 1}, Access::kRead), 0u);
}

TEST_F(TranslateTest, PagesThatAreNotAnnouncedAreNotMarked) {
  for (const uint64_t page : {4, 5, 6, 7}) ASSERT_EQ(Fault(page), FaultOutcome::kMapped);
  const RangeSection section(reader_, host_.Pages(5, 2));
  EXPECT_EQ(mmu_.MarkUsed(section, {GfnAt(6), GfnAt(8)}, Access::kWrite), 0u);
  EXPECT_EQ(mmu_.MarkUsed(section, {GfnAt(4), GfnAt(6)}, Access::kWrite), 0u);
  for (const uint64_t page : {4, 5, 6, 7}) EXPECT_FALSE(LeafOf(page)->dirty());
}

TEST_F(TranslateTest, MarksEndWithTheMemslot) {
  ASSERT_EQ(Fault(kPages - 1), FaultOutcome::kMapped);
  const RangeSection section(reader_, host_.Pages(kPages - 1));
  EXPECT_EQ(mmu_.MarkUsed(section, {GfnAt(kPages - 1), GfnAt(kPages + 1)}, Access::kWrite), 1u);
}

}  // namespace
}  // namespace underfoot::testing
