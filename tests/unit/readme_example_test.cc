// The example of mmu/README.md, so that it compiles and does what it says.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "tests/unit/fake_host.h"

namespace underfoot {
namespace {

class PlainMemory final : public PageSource {
  PageInResult PageIn(Hva page, Access, FaultContext*) override {
    return {PageInOutcome::kPresent, {page.value >> kPageShift}, Access::kWrite};
  }
};

void Tour(Hva ram, uint64_t pages) {
  PlainMemory memory;
  Mmu mmu(memory);
  ASSERT_TRUE(
      mmu.CreateMemslot({.id = 0, .gfns = {{0}, {pages}}, .hva = ram, .flags = {.log_dirty = true}})
          .ok());
  Reader reader(mmu.readers());

  PfnCache ring(mmu, "ring");
  ASSERT_TRUE(ring.Activate(reader, Gpa{0x1040}, 64, Access::kWrite).ok());
  if (CacheSection section = ring.Check(reader)) {
    std::memset(section.data(), 1, 64);
    section.MarkDirty();
  }

  TranslatedPage page = mmu.Translate(reader, Gpa{0x2000}, Access::kRead);
  while (!page) {
    ASSERT_EQ(mmu.faults().FaultIn(reader, Gfn{2}, Access::kRead).outcome, FaultInOutcome::kMapped);
    page = mmu.Translate(reader, Gpa{0x2000}, Access::kRead);
  }
  EXPECT_EQ(page.data()[0], std::byte{0});
  page = {};
  const auto dirty = mmu.CollectDirty(0);
  ASSERT_TRUE(dirty.ok());
  EXPECT_TRUE(dirty->Contains(1));
  EXPECT_EQ(dirty->count(), 1u);

  {
    InvalidationScope bracket(mmu.notifier(),
                              {{ram, ram + pages * kPageSize}, InvalidationKind::kUnmap});
    ASSERT_EQ(::madvise(PointerOf(ram), pages * kPageSize, MADV_DONTNEED), 0);
  }
  EXPECT_FALSE(ring.Check(reader));
  EXPECT_EQ(ring.Refresh(reader), RefreshOutcome::kValid);
  CacheSection section = ring.Check(reader);
  ASSERT_TRUE(section);
  EXPECT_EQ(section.data()[0], std::byte{0});
  section = {};
  ring.Deactivate();
}

TEST(ReadmeExampleTest, TheTourOfTheReadmeWorks) {
  testing::FakeHost host(16);
  Tour(host.range().begin, 16);
}

}  // namespace
}  // namespace underfoot
