#include "mmu/memslot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

Memslot Slot(uint32_t id, uint64_t gfn, uint64_t pages, uint64_t hva) {
  return {.id = id, .gfns = {{gfn}, {gfn + pages}}, .hva = {hva}};
}

class MemslotTest : public ::testing::Test {
 protected:
  void Add(const Memslot& slot) { ASSERT_TRUE(table_.Add(slot).ok()); }
  // The ids of the slots that an invalidation of the range walks.
  std::vector<uint32_t> Walked(uint64_t begin, uint64_t end) {
    rcu::ReadScope rcu;
    std::vector<uint32_t> ids;
    table_.Current().ForEachOverlap({{begin}, {end}},
                                    [&](const Memslot& slot, HvaRange) { ids.push_back(slot.id); });
    return ids;
  }
  const Memslot* Find(uint64_t gfn) { return table_.Current().Find(Gfn{gfn}); }

  MemslotTable table_;
};

TEST_F(MemslotTest, AnEmptyTableHasNothing) {
  EXPECT_EQ(Find(0), nullptr);
  EXPECT_THAT(Walked(0, ~uint64_t{0}), IsEmpty());
  EXPECT_EQ(table_.Current().generation(), 0u);
}

TEST_F(MemslotTest, ASlotIsFoundByItsGfnsAndNoOther) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  Add(Slot(2, 0x200, 0x10, 0x20'0000));
  EXPECT_EQ(Find(0xff), nullptr);
  ASSERT_NE(Find(0x100), nullptr);
  EXPECT_EQ(Find(0x10f)->id, 1u);
  EXPECT_EQ(Find(0x110), nullptr);
  EXPECT_EQ(Find(0x200)->id, 2u);
  EXPECT_EQ(Find(0x105)->HvaOf({0x105}), Hva{0x10'5000});
}

TEST_F(MemslotTest, ASlotIsFoundByItsHvasAndNoOther) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  Add(Slot(2, 0x200, 0x10, 0x20'0000));
  EXPECT_THAT(Walked(0, 0x10'0000), IsEmpty());
  EXPECT_THAT(Walked(0, 0x10'0001), ElementsAre(1u));
  EXPECT_THAT(Walked(0x10'f000, 0x11'0000), ElementsAre(1u));
  EXPECT_THAT(Walked(0x11'0000, 0x20'0000), IsEmpty());
  EXPECT_THAT(Walked(0, ~uint64_t{0}), ElementsAre(1u, 2u));
  const Memslot* by_hva = table_.Current().Find(Hva{0x20'5123});
  ASSERT_NE(by_hva, nullptr);
  EXPECT_EQ(by_hva->id, 2u);
}

TEST_F(MemslotTest, AnOverlapIsTheCommonPart) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  rcu::ReadScope rcu;
  table_.Current().ForEachOverlap({{0x10'3000}, {0x30'0000}},
                                  [](const Memslot& slot, HvaRange overlap) {
                                    EXPECT_EQ(overlap, (HvaRange{{0x10'3000}, {0x11'0000}}));
                                    EXPECT_EQ(slot.GfnsOf(overlap), (GfnRange{{0x103}, {0x110}}));
                                  });
}

// A long slot in front of short ones that it contains: all three share host memory.
TEST_F(MemslotTest, AliasesAreAllFound) {
  Add(Slot(1, 0x1000, 0x100, 0x10'0000));
  Add(Slot(2, 0x2000, 0x1, 0x11'0000));
  Add(Slot(3, 0x3000, 0x1, 0x12'0000));
  Add(Slot(4, 0x4000, 0x1, 0x30'0000));
  EXPECT_THAT(Walked(0x12'0000, 0x12'1000), ElementsAre(1u, 3u));
  EXPECT_THAT(Walked(0x1f'0000, 0x1f'1000), ElementsAre(1u));
  EXPECT_THAT(Walked(0x30'0000, 0x30'1000), ElementsAre(4u));
}

TEST_F(MemslotTest, ADyingSlotIsWalkedAndNotFound) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  const auto dying = table_.MarkDying(1);
  ASSERT_TRUE(dying.ok());
  EXPECT_TRUE(dying->dying);
  EXPECT_EQ(Find(0x100), nullptr);
  EXPECT_EQ(table_.Current().Find(Hva{0x10'0000}), nullptr);
  EXPECT_THAT(Walked(0x10'0000, 0x10'1000), ElementsAre(1u));
  table_.Erase(1);
  EXPECT_THAT(Walked(0x10'0000, 0x10'1000), IsEmpty());
}

TEST_F(MemslotTest, ASlotKeepsTheGenerationOfTheSetThatItCameWithUntilItChanges) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  Add(Slot(2, 0x200, 0x10, 0x20'0000));
  EXPECT_EQ(Find(0x100)->generation, 1u);
  EXPECT_EQ(Find(0x200)->generation, 2u);
  ASSERT_TRUE(table_.SetFlags(1, {.read_only = true}).ok());
  EXPECT_EQ(Find(0x100)->generation, 3u);
  EXPECT_EQ(Find(0x200)->generation, 2u);
}

TEST_F(MemslotTest, EveryPublicationMovesTheGeneration) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  EXPECT_EQ(table_.Current().generation(), 1u);
  ASSERT_TRUE(table_.MarkDying(1).ok());
  EXPECT_EQ(table_.Current().generation(), 2u);
  table_.Erase(1);
  EXPECT_EQ(table_.Current().generation(), 3u);
}

TEST_F(MemslotTest, ASlotAddedAgainIsAnotherSlot) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  const uint64_t uid = Find(0x100)->uid;
  ASSERT_TRUE(table_.MarkDying(1).ok());
  table_.Erase(1);
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  EXPECT_NE(Find(0x100)->uid, uid);
}

struct Refusal {
  Memslot slot;
  absl::StatusCode code;
  std::string says;
};

TEST_F(MemslotTest, ARefusalNamesTheSlotAndTheReason) {
  Add(Slot(1, 0x100, 0x10, 0x10'0000));
  constexpr uint64_t kTop = uint64_t{1} << 36;
  const Refusal refusals[] = {
      {Slot(2, 0x500, 0, 0), absl::StatusCode::kInvalidArgument, "non-empty"},
      {Slot(2, kTop - 1, 2, 0), absl::StatusCode::kInvalidArgument, "below gfn 2^36"},
      {Slot(2, 0x500, 1, 0x123), absl::StatusCode::kInvalidArgument, "multiple of 4096"},
      {Slot(2, 0x500, 2, 0x7fff'ffff'f000), absl::StatusCode::kInvalidArgument, "below 2^47"},
      {Slot(2, 0x500, 2, ~kPageMask), absl::StatusCode::kInvalidArgument, "below 2^47"},
      {Slot(1, 0x500, 1, 0), absl::StatusCode::kAlreadyExists, "the id is in use"},
      {Slot(2, 0x10f, 1, 0), absl::StatusCode::kAlreadyExists, "overlaps memslot 1"},
  };
  for (const Refusal& refusal : refusals) {
    const absl::Status status = table_.Add(refusal.slot);
    EXPECT_EQ(status.code(), refusal.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.says));
    EXPECT_THAT(std::string(status.message()), HasSubstr("memslot"));
  }
  EXPECT_EQ(table_.Current().size(), 1u);
  Add(Slot(2, kTop - 1, 1, 0x7fff'ffff'f000));  // the very last of both spaces
}

TEST_F(MemslotTest, ASlotTooManyIsRefused) {
  MemslotTable small(2);
  ASSERT_TRUE(small.Add(Slot(1, 0x100, 1, 0)).ok());
  ASSERT_TRUE(small.Add(Slot(2, 0x200, 1, 0)).ok());
  const absl::Status status = small.Add(Slot(3, 0x300, 1, 0));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("2 memslots already"));
}

TEST_F(MemslotTest, AliasesThatBeginAlikeGoOneByOne) {
  for (uint32_t id = 1; id <= 5; ++id) Add(Slot(id, id * 0x100, id, 0x10'0000));
  for (const uint32_t id : {3u, 5u, 1u}) {
    ASSERT_TRUE(table_.MarkDying(id).ok());
    table_.Erase(id);
  }
  EXPECT_THAT(Walked(0x10'0000, 0x10'1000), UnorderedElementsAre(2u, 4u));
  EXPECT_THAT(Walked(0x10'2000, 0x20'0000), ElementsAre(4u));
  EXPECT_THAT(Walked(0x10'4000, 0x20'0000), IsEmpty());
}

TEST_F(MemslotTest, DeletingWhatIsNotThereIsAnError) {
  const auto dying = table_.MarkDying(9);
  EXPECT_EQ(dying.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(dying.status().message()), HasSubstr("memslot 9"));
}

}  // namespace
}  // namespace underfoot::testing
