// Pages that MADV_FREE has left: which those are, to the page.

#include "vmm/evidence/lazy_frees.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

namespace underfoot::testing {
namespace {

class LazyFreesTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 200;

  LazyFreesTest()
      : base_(mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0)),
        lazy_(Pages(0, kPages)) {}
  ~LazyFreesTest() override { munmap(base_, kPages * kPageSize); }

  HvaRange Pages(uint64_t first, uint64_t count = 1) const {
    return PageRangeOf(HvaOf(base_) + first * kPageSize, count);
  }
  uint64_t Lazy() const {
    uint64_t lazy = 0;
    for (uint64_t i = 0; i < kPages; ++i) lazy += lazy_.MayGo(Pages(i)) ? 1 : 0;
    return lazy;
  }
  void Touch(uint64_t i) const { *static_cast<char*>(PointerOf(Pages(i).begin)) = 1; }

  void* const base_;
  LazyFrees lazy_;
};

TEST_F(LazyFreesTest, ContainsItsPagesAndNoOthers) {
  for (const auto& [first, count] :
       {std::pair<uint64_t, uint64_t>{0, 1}, {63, 1}, {64, 64}, {60, 10}, {1, 190}, {0, kPages}}) {
    lazy_.Add(Pages(first, count));
    EXPECT_EQ(Lazy(), count);
    EXPECT_TRUE(lazy_.MayGo(Pages(first)));
    EXPECT_TRUE(lazy_.MayGo(Pages(first + count - 1)));
    EXPECT_TRUE(lazy_.MayGo(Pages(0, kPages)));
    EXPECT_TRUE(lazy_.Take(Pages(first, count)));
    EXPECT_EQ(Lazy(), 0u);
    EXPECT_FALSE(lazy_.Take(Pages(0, kPages)));
  }
}

TEST_F(LazyFreesTest, APageOutsideIsNeverLazy) {
  const HvaRange ram = Pages(0, kPages);
  lazy_.Add({ram.begin - 3 * kPageSize, ram.begin + kPageSize});
  lazy_.Add({ram.end, ram.end + kPageSize});
  EXPECT_EQ(Lazy(), 1u);
  EXPECT_FALSE(lazy_.MayGo({ram.begin - kPageSize, ram.begin}));
  EXPECT_FALSE(lazy_.MayGo({ram.end, ram.end + kPageSize}));
  LazyFrees none((HvaRange()));
  none.Add(ram);
  EXPECT_FALSE(none.Take(ram));
}

TEST_F(LazyFreesTest, APartOfAPageIsThePage) {
  const Hva page = Pages(5).begin;
  lazy_.Add({page + 10, page + 20});
  EXPECT_EQ(Lazy(), 1u);
  EXPECT_TRUE(lazy_.MayGo(Pages(5)));
}

TEST_F(LazyFreesTest, APageThatACallLeftInPlaceIsLazyAgain) {
  for (const uint64_t i : {10, 11, 13}) Touch(i);
  lazy_.Add(Pages(10, 4));
  ASSERT_TRUE(lazy_.Take(Pages(10, 4)));
  ASSERT_EQ(madvise(PointerOf(Pages(10).begin), kPageSize, MADV_DONTNEED), 0);
  lazy_.Return(Pages(10, 4));
  EXPECT_FALSE(lazy_.MayGo(Pages(10)));
  EXPECT_TRUE(lazy_.MayGo(Pages(11)));
  EXPECT_FALSE(lazy_.MayGo(Pages(12)));
  EXPECT_TRUE(lazy_.MayGo(Pages(13)));
}

}  // namespace
}  // namespace underfoot::testing
