#include "mmu/reader.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

namespace underfoot::testing {
namespace {

HvaRange Pages(uint64_t first, uint64_t count = 1) {
  return {{first * kPageSize}, {(first + count) * kPageSize}};
}
uint64_t KeyOf(uint64_t page) { return ReaderKey::Pack(Pages(page)); }

class ReaderTest : public ::testing::Test {
 protected:
  bool Reading(uint64_t page) { return registry_.AnySectionOverlapsUnsafe(Pages(page)); }

  ReaderRegistry registry_;
};

TEST_F(ReaderTest, ASectionIsSeenUntilItIsLeft) {
  Reader reader(registry_);
  EXPECT_FALSE(reader.InSection());
  {
    Section section(reader, KeyOf(10));
    EXPECT_TRUE(section.open() && reader.InSection());
    EXPECT_TRUE(Reading(10));
    EXPECT_FALSE(Reading(11));
  }
  EXPECT_FALSE(reader.InSection());
  EXPECT_FALSE(Reading(10));
}

TEST_F(ReaderTest, AForgottenSectionIsABug) {
  registry_.SetPatience(absl::Milliseconds(20));
  EXPECT_DEATH(
      {
        Reader reader(registry_);
        Section section(reader, KeyOf(10));
        registry_.WaitForReaders(Pages(10));
      },
      "a read section is never left");
}

TEST_F(ReaderTest, ASectionMovesAndLeavesOnce) {
  Reader reader(registry_);
  Section first(reader, KeyOf(10));
  Section second(std::move(first));
  EXPECT_TRUE(Reading(10));
  second = Section(reader, KeyOf(11));
  EXPECT_FALSE(Reading(10));
  EXPECT_TRUE(Reading(11));
  second.Leave();
  second.Leave();
  EXPECT_FALSE(second.open());
  EXPECT_FALSE(Reading(11));
}

TEST_F(ReaderTest, SectionsOfOneReaderAreLeftInAnyOrder) {
  Reader reader(registry_);
  std::vector<Section> sections;
  for (uint64_t page = 0; page < internal::kSlotsPerReader; ++page) {
    sections.emplace_back(reader, KeyOf(page));
  }
  sections[2].Leave();
  sections[0].Leave();
  EXPECT_FALSE(Reading(0));
  EXPECT_TRUE(Reading(1));
  EXPECT_FALSE(Reading(2));
  sections[0] = Section(reader, KeyOf(20));
  EXPECT_TRUE(Reading(20));
  sections.clear();
  EXPECT_FALSE(reader.InSection());
}

TEST_F(ReaderTest, OneSectionTooManyIsABug) {
  Reader reader(registry_);
  std::vector<Section> sections;
  for (uint64_t page = 0; page < internal::kSlotsPerReader; ++page) {
    sections.emplace_back(reader, KeyOf(page));
  }
  EXPECT_DEATH(Section(reader, KeyOf(9)), "too many read sections");
}

TEST_F(ReaderTest, ManyReadersHaveTagsOfTheirOwn) {
  constexpr size_t kMany = 100;  // more than a chunk of the registry
  std::vector<std::unique_ptr<Reader>> readers;
  std::set<OwnerTag> tags;
  for (size_t i = 0; i < kMany; ++i) {
    readers.push_back(std::make_unique<Reader>(registry_));
    tags.insert(readers.back()->tag());
  }
  EXPECT_EQ(tags.size(), kMany);
  EXPECT_EQ(tags.count(0), 0u);
  EXPECT_LE(*tags.rbegin(), kMaxOwnerTag);
  Section section(*readers.back(), KeyOf(10));
  EXPECT_TRUE(Reading(10));
}

TEST_F(ReaderTest, ATagIsUsedAgainAfterItsReader) {
  auto first = std::make_unique<Reader>(registry_);
  const OwnerTag tag = first->tag();
  Reader second(registry_);
  EXPECT_NE(second.tag(), tag);
  first.reset();
  Reader third(registry_);
  EXPECT_EQ(third.tag(), tag);
}

TEST_F(ReaderTest, AWaitForNobodyReturnsAtOnce) {
  Reader reader(registry_);
  Section section(reader, KeyOf(10));
  registry_.WaitForReaders(Pages(11));
  EXPECT_EQ(registry_.waits(), 0u);
}

TEST_F(ReaderTest, AReaderThatEndsInASectionIsABug) {
  auto reader = std::make_unique<Reader>(registry_);
  Section section(*reader, KeyOf(10));
  EXPECT_DEATH(reader.reset(), "ended inside a read section");
}

TEST_F(ReaderTest, ARegistryOutlivesItsReaders) {
  auto registry = std::make_unique<ReaderRegistry>();
  Reader reader(*registry);
  EXPECT_DEATH(registry.reset(), "ended before its reader");
}

}  // namespace
}  // namespace underfoot::testing
