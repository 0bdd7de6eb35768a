#include "mmu/base/types.h"

#include <gtest/gtest.h>

#include "mmu/stage2/pte.h"

namespace underfoot::testing {
namespace {

HvaRange Bytes(uint64_t begin, uint64_t end) { return {{begin}, {end}}; }

TEST(TypesTest, PagesAndFramesAgree) {
  EXPECT_EQ(GfnOf(Gpa{0x5432'1fff}), Gfn{0x54321});
  EXPECT_EQ(GpaOf(Gfn{0x54321}), Gpa{0x5432'1000});
  EXPECT_EQ(PageOf(Hva{0x7fff}), Hva{0x7000});
  EXPECT_EQ(OffsetInPage(Gpa{0x7abc}), 0xabcu);
  EXPECT_EQ(PageRangeOf(Hva{0x7abc}, 2), Bytes(0x7000, 0x9000));
}

TEST(TypesTest, RangesAreHalfOpen) {
  const HvaRange range = Bytes(0x1000, 0x3000);
  EXPECT_TRUE(range.Contains(Hva{0x1000}));
  EXPECT_FALSE(range.Contains(Hva{0x3000}));
  EXPECT_TRUE(range.Contains(Bytes(0x1000, 0x3000)));
  EXPECT_FALSE(range.Contains(Bytes(0x1000, 0x3001)));
  EXPECT_FALSE(range.Overlaps(Bytes(0x3000, 0x4000)));
  EXPECT_TRUE(range.Overlaps(Bytes(0x2fff, 0x4000)));
  EXPECT_EQ(range.Intersect(Bytes(0x2000, 0x9000)), Bytes(0x2000, 0x3000));
  EXPECT_TRUE(range.Intersect(Bytes(0x5000, 0x9000)).empty());
}

TEST(TypesTest, RoundingOutTakesEveryPageThatIsTouched) {
  EXPECT_EQ(RoundOutToPages(Bytes(0x1001, 0x1002)), Bytes(0x1000, 0x2000));
  EXPECT_EQ(RoundOutToPages(Bytes(0x1000, 0x2000)), Bytes(0x1000, 0x2000));
  EXPECT_EQ(RoundOutToPages(Bytes(0x1fff, 0x2001)), Bytes(0x1000, 0x3000));
}

// The kernel reports [0, ~0) for a change of everything.
TEST(TypesTest, RoundingOutDoesNotWrap) {
  EXPECT_EQ(RoundOutToPages(Bytes(0, ~uint64_t{0})), Bytes(0, ~kPageMask));
  EXPECT_EQ(RoundOutToPages(Bytes(0x1000, ~kPageMask)), Bytes(0x1000, ~kPageMask));
  EXPECT_EQ(RoundOutToPages(Bytes(0x1000, ~kPageMask + 1)), Bytes(0x1000, ~kPageMask));
}

TEST(PteTest, ALeafHoldsItsFields) {
  const Pte leaf = Pte::Leaf({0xabcde}, Access::kWrite);
  EXPECT_TRUE(leaf.is_leaf());
  EXPECT_EQ(leaf.pfn(), Pfn{0xabcde});
  EXPECT_TRUE(leaf.writable() && leaf.young());
  EXPECT_FALSE(leaf.dirty());
  EXPECT_EQ(leaf.tag(), 0);
  EXPECT_TRUE(leaf.Grants(Access::kRead) && leaf.Grants(Access::kWrite));
  EXPECT_FALSE(Pte::Leaf({1}, Access::kRead).Grants(Access::kWrite));
}

TEST(PteTest, EachChangeChangesItsBitAndNoOther) {
  const Pte leaf = Pte::Leaf({0xabcde}, Access::kWrite).Dirty();
  EXPECT_EQ(leaf.word(), 0xabcde039u);
  EXPECT_EQ(leaf.Old().word(), 0xabcde029u);
  EXPECT_EQ(leaf.Clean().word(), 0xabcde019u);
  EXPECT_EQ(leaf.ReadOnly().word(), 0xabcde031u);  // still dirty
  EXPECT_EQ(leaf.WithPfn({0x1}).word(), 0x1039u);
  EXPECT_EQ(leaf.WithTag(7).word(), 0x0070'0000'abcd'e039u);
  EXPECT_EQ(leaf.WithTag(7).ReadOnly(), leaf.ReadOnly());
  EXPECT_EQ(leaf.WithTag(7).WithTag(0), leaf);
}

TEST(PteTest, AClaimHoldsItsOwner) {
  const Pte claim = Pte::Claim(kMaxOwnerTag);
  EXPECT_TRUE(claim.is_claim());
  EXPECT_EQ(claim.tag(), kMaxOwnerTag);
  EXPECT_FALSE(claim.Grants(Access::kRead));
  EXPECT_NE(Pte::Claim(1), Pte::Claim(2));
}

TEST(PteTest, LevelsCoverPowersOf512Pages) {
  EXPECT_EQ(PagesAt(0), 1u);
  EXPECT_EQ(PagesAt(1), 512u);
  EXPECT_EQ(PagesAt(2), 262144u);
  EXPECT_EQ(IndexOf({0x12345}, 0), 0x145u);
  EXPECT_EQ(IndexOf({0x12345}, 1), 0x91u);
  EXPECT_EQ(EntryRange({0x12345}, 1), (GfnRange{{0x12200}, {0x12400}}));
}

}  // namespace
}  // namespace underfoot::testing
