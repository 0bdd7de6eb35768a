#include "mmu/readers/reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/thread_state.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

HvaRange SomePages(uint64_t first, uint64_t count = 1) {
  return {{first * kPageSize}, {(first + count) * kPageSize}};
}
uint64_t KeyOf(uint64_t page) { return ReaderKey::Pack(SomePages(page)); }

// Enough sections without a Begin between them.
void TakeBias(Reader& reader) {
  for (uint64_t i = 0; i <= 2 * ReaderBias::kWindow; ++i) Section(reader, KeyOf(1000));
}

class ReaderTest : public ::testing::Test {
 protected:
  bool Reading(uint64_t page) { return registry_.AnySectionOverlapsUnsafe(SomePages(page)); }

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

TEST_F(ReaderTest, ASectionThatIsNeverLeftIsABug) {
  registry_.SetPatience(absl::Milliseconds(20));
  EXPECT_DEATH(
      {
        Reader reader(registry_);
        Section section(reader, KeyOf(10));
        registry_.WaitForReaders(SomePages(10));
      },
      "a read section is never left");
}

// The reader may be blocked behind a thread that gets no CPU time as long as this one goes on to
// yield.
TEST_F(ReaderTest, AWaiterForAReaderThatStaysSleeps) {
  Reader reader(registry_);
  Section section(reader, KeyOf(10));
  std::atomic<pid_t> waiter_id{0};
  std::thread waiter([&] {
    waiter_id = gettid();
    registry_.WaitForReaders(SomePages(10));
  });
  EXPECT_TRUE(WaitUntil([&] { return waiter_id != 0 && ThreadSleeps(waiter_id); }));
  section.Leave();
  waiter.join();
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

TEST_F(ReaderTest, AWaitWithoutReadersReturnsAtOnce) {
  Reader reader(registry_);
  Section section(reader, KeyOf(10));
  registry_.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry_.waits(), 0u);
}

TEST_F(ReaderTest, ABiasCostsOneMembarrier) {
  Reader reader(registry_);
  Reader other(registry_);
  registry_.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry_.membarriers(), 0u);
  TakeBias(reader);
  TakeBias(other);
  for (int i = 0; i < 3; ++i) registry_.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry_.membarriers(), 1u);
  TakeBias(other);
  registry_.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry_.membarriers(), 2u);
}

TEST_F(ReaderTest, AReaderAmongInvalidationsTakesNoBias) {
  Reader reader(registry_);
  for (uint64_t i = 0; i < 5 * ReaderBias::kWindow; ++i) {
    Section(reader, KeyOf(10));
    if (i % (ReaderBias::kWindow / 2) == 0) registry_.WaitForReaders(SomePages(11));
  }
  EXPECT_EQ(registry_.membarriers(), 0u);
}

TEST_F(ReaderTest, WithoutMembarriersNoReaderHasABias) {
  ReaderRegistry registry(false);
  Reader reader(registry);
  TakeBias(reader);
  registry.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry.membarriers(), 0u);
}

TEST_F(ReaderTest, AReaderThatEndsGivesUpItsBias) {
  auto reader = std::make_unique<Reader>(registry_);
  TakeBias(*reader);
  reader.reset();
  registry_.WaitForReaders(SomePages(11));
  EXPECT_EQ(registry_.membarriers(), 0u);
}

TEST_F(ReaderTest, MoreBiasedReadersThanOneBatchAreAllLookedAt) {
  constexpr size_t kMany = 40;
  std::vector<std::unique_ptr<Reader>> readers;
  for (size_t i = 0; i < kMany; ++i) {
    readers.push_back(std::make_unique<Reader>(registry_));
    TakeBias(*readers.back());
  }
  registry_.NoteUnwaited();
  {
    Section last(*readers.back(), KeyOf(10));
    registry_.WaitForReaders(SomePages(11));
    EXPECT_TRUE(registry_.MustLook());  // one was inside
  }
  EXPECT_EQ(registry_.membarriers(), 2u);
  registry_.WaitForReaders(SomePages(11));
  EXPECT_FALSE(registry_.MustLook());
  EXPECT_EQ(registry_.membarriers(), 2u);
}

TEST(ReaderBiasTest, ABiasWordFromBeforeANewBiasRevokesNothing) {
  ReaderBias bias;
  bias.EndWindow();
  bias.EndWindow();
  const uint64_t first = bias.Revoke();
  EXPECT_NE(first, 0u);
  EXPECT_EQ(bias.Revoke(), first);  // another Begin, beside it
  bias.Revoked(first);
  bias.EndWindow();  // looked at
  EXPECT_FALSE(bias.Held());
  bias.EndWindow();
  ASSERT_TRUE(bias.Held());
  const uint64_t second = bias.Revoke();
  EXPECT_FALSE(bias.Held());
  bias.Revoked(first);  // the other Begin, late: its membarrier says nothing of the second bias
  EXPECT_EQ(bias.Revoke(), second);
  bias.Revoked(second);
  EXPECT_EQ(bias.Revoke(), 0u);
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
