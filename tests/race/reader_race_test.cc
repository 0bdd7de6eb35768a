// Readers against invalidations (P3): for which readers an invalidation waits, and for how long.

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>

#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class ReaderRaceTest : public RaceTest {
 protected:
  ReaderRaceTest() {
    for (uint64_t page = 0; page < 8; ++page) FaultIn(page);
  }
  // Makes the reader biased: its sections are plain stores until a Begin looks at it.
  void TakeBias() {
    for (uint64_t i = 0; i <= 2 * ReaderBias::kWindow; ++i) Section(reader_, kKeyElsewhere);
  }
  uint64_t Membarriers() { return mmu_.Stats().pfn_caches.reader_membarriers; }
  void LookAtReaders() { mmu_.readers().WaitForReaders(host_.Pages(40)); }

  const uint64_t kKeyElsewhere = ReaderKey::Pack(host_.Pages(60));

  TranslatedPage Read(uint64_t page) { return mmu_.Translate(reader_, GpaAt(page), Access::kRead); }

  Reader reader_{mmu_.readers()};
};

TEST_F(ReaderRaceTest, ABeginWaitsForTheReaderOfItsPage) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  gate.Open();
  EXPECT_FALSE(LeafOf(5).has_value());  // emptied before the wait
  page = {};
  begin.Join();
  EXPECT_EQ(mmu_.readers().waits(), 1u);
  held.End();
}

TEST_F(ReaderRaceTest, ABeginWaitsForNoOtherReader) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Task bracket("bracket beside a reader", [&] { MovePage(6); });
  bracket.Join();
  EXPECT_EQ(mmu_.readers().waits(), 0u);
}

//   reader          first Begin              second Begin
//   in a section
//                   empties the entry, waits
//                                            finds an empty entry, but waits too
TEST_F(ReaderRaceTest, TheSecondOfTwoOverlappingBeginsWaitsToo) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Gate first_gate("reader-wait");
  OpenBracket first_bracket;
  Task first("first begin", [&] { first_bracket = Begin(5); });
  ASSERT_TRUE(StopsAt(first_gate, first));
  Gate second_gate("reader-wait");
  OpenBracket second_bracket;
  Task second("second begin", [&] { second_bracket = Begin(5); });
  ASSERT_TRUE(StopsAt(second_gate, second));
  page = {};
  first_gate.Open();
  second_gate.Open();
  first.Join();
  second.Join();
  first_bracket.End();
  second_bracket.End();
}

//   reader          deletion of the memslot  Begin
//   in a section
//                   empties the entry, waits
//                                            finds neither slot nor leaf, but waits too
TEST_F(ReaderRaceTest, ABeginWaitsForReadersOfAMemslotThatGoes) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Gate delete_gate("reader-wait");
  Task deleter("memslot delete", [&] { DeleteSlot(); });
  ASSERT_TRUE(StopsAt(delete_gate, deleter));
  EXPECT_FALSE(LeafOf(5).has_value());
  Gate gate("reader-wait");
  Task begin("begin", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  page = {};
  delete_gate.Open();
  gate.Open();
  deleter.Join();
  begin.Join();
}

//   reader          Begin with kNoWait       Begin
//   in a section
//                   empties the entry; End
//                                            finds an empty entry, but waits
TEST_F(ReaderRaceTest, ABeginWaitsForReadersThatAnotherDidNotWaitFor) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  BracketToken token =
      mmu_.notifier().Begin({host_.Pages(5), InvalidationKind::kUnmap}, ReaderWait::kNoWait);
  mmu_.notifier().End(token);
  EXPECT_TRUE(mmu_.readers().MustLook());
  Gate gate("reader-wait");
  Task begin("begin", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  page = {};
  gate.Open();
  begin.Join();
  MovePage(7);  // sees each reader outside of sections
  EXPECT_FALSE(mmu_.readers().MustLook());
}

//   reader by hva                            Begin
//   enters a DirectSection, finds no bracket
//                                            finds an empty entry, but waits
TEST_F(ReaderRaceTest, ABeginWaitsForASectionWithoutATranslation) {
  MovePage(5);
  ASSERT_FALSE(LeafOf(5).has_value());
  auto section = std::make_unique<DirectSection>(reader_, ReaderKey::Pack(host_.Pages(5)));
  ASSERT_FALSE(mmu_.in_flight().FindOverlap(host_.Pages(5)).has_value());
  Gate gate("reader-wait");
  Task begin("begin", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  section.reset();
  gate.Open();
  begin.Join();
}

// A Begin looks at no reader if it finds no translation and no other bracket, update or
// DirectSection is there.
TEST_F(ReaderRaceTest, ABeginThatFindsNothingLooksAtNoReader) {
  MovePage(5);
  TranslatedPage page = Read(6);
  ASSERT_TRUE(page);
  int scans = 0;
  SetSyncPoint("readers-scan", [&] { ++scans; });
  MovePage(5);
  EXPECT_EQ(scans, 0);
  page = {};
  MovePage(6);
  EXPECT_EQ(scans, 1);
}

TEST_F(ReaderRaceTest, ABeginWaitsForABiasedReader) {
  TakeBias();
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  Task begin("begin", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  EXPECT_EQ(Membarriers(), 1u);
  page = {};
  gate.Open();
  begin.Join();
}

//   biased reader                   first Begin          second Begin
//                                   a2 writes LEAVING
//                                                        a1 finds LEAVING: its own membarrier
//                                   a2 membarrier
TEST_F(ReaderRaceTest, ABeginDoesNotRelyOnAMembarrierThatHasNotRunYet) {
  TakeBias();
  Gate gate("bias-leaving");
  Task first("first begin", [&] { LookAtReaders(); });
  ASSERT_TRUE(StopsAt(gate, first));
  LookAtReaders();
  EXPECT_EQ(Membarriers(), 1u);
  LookAtReaders();
  EXPECT_EQ(Membarriers(), 1u);
  gate.Open();
  first.Join();
  EXPECT_EQ(Membarriers(), 2u);
}

//   biased reader                   Begin
//   is about to store its slot
//                                   takes the bias away; membarrier
//   1 stores; 1a finds no bias; exchanges the slot
TEST_F(ReaderRaceTest, ASectionThatWasAboutToBeginAnnouncesItself) {
  TakeBias();
  int announced = 0;
  SetSyncPoint("section-announced", [&] { ++announced; });
  Section(reader_, kKeyElsewhere);
  EXPECT_EQ(announced, 0);
  Gate gate("section-entering");
  Task reader("biased reader", [&] { Section(reader_, kKeyElsewhere); });
  ASSERT_TRUE(StopsAt(gate, reader));
  LookAtReaders();
  EXPECT_EQ(Membarriers(), 1u);
  gate.Open();
  reader.Join();
  EXPECT_EQ(announced, 1);
}

// The waiter has seen one section. The reader leaves it and is in another section of the same page
// when the waiter looks again.
TEST_F(ReaderRaceTest, AReaderThatComesBackDoesNotStarveABegin) {
  const uint64_t key = ReaderKey::Pack(host_.Pages(5));
  Section section(reader_, key);
  Gate gate("reader-wait");
  Task begin("begin against a reader that comes back", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  section = Section();
  section = Section(reader_, key);
  gate.Open();
  begin.Join();
}

TEST_F(ReaderRaceTest, AScopeWaitsBeforeItsBody) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  bool host_call = false;
  Task scope("scope", [&] {
    InvalidationScope invalidation(mmu_.notifier(), {host_.Pages(5), InvalidationKind::kUnmap});
    host_call = true;
  });
  ASSERT_TRUE(StopsAt(gate, scope));
  page = {};
  gate.Open();
  scope.Join();
  EXPECT_TRUE(host_call);
}

TEST_F(ReaderRaceTest, ABeginThatMustNotWaitDoesNot) {
  TranslatedPage page = Read(5);
  ASSERT_TRUE(page);
  BracketToken token =
      mmu_.notifier().Begin({host_.Pages(5), InvalidationKind::kUnmap}, ReaderWait::kNoWait);
  EXPECT_FALSE(LeafOf(5).has_value());
  EXPECT_FALSE(Read(5));  // no reader can enter a section with the old translation
  mmu_.notifier().End(token);
}

//   reader                          invalidation
//   Translate finds the slot
//                                   Begin; the page moves; End
//   enters its section; reads the root; finds no leaf
TEST_F(ReaderRaceTest, ATranslateBeforeItsSectionSeesTheInvalidation) {
  Gate gate("translate-before-section");
  bool found = true;
  Task reader("reader", [&] {
    Reader mine(mmu_.readers());
    found = static_cast<bool>(mmu_.Translate(mine, GpaAt(5), Access::kRead));
  });
  ASSERT_TRUE(StopsAt(gate, reader));
  MovePage(5);
  gate.Open();
  reader.Join();
  EXPECT_FALSE(found);
}

TEST_F(ReaderRaceTest, AProtectWaitsForWriters) {
  FaultIn(9, Access::kWrite);
  TranslatedPage page = mmu_.Translate(reader_, GpaAt(9), Access::kWrite);
  ASSERT_TRUE(page);
  Gate gate("reader-wait");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(9, InvalidationKind::kProtect); });
  ASSERT_TRUE(StopsAt(gate, begin));
  page = {};
  gate.Open();
  begin.Join();
  EXPECT_FALSE(mmu_.Translate(reader_, GpaAt(9), Access::kWrite));
  EXPECT_TRUE(mmu_.Translate(reader_, GpaAt(9), Access::kRead));
  held.End();
}

// The section announces pages 5 to 7, and uses page 5. A Begin over page 6 finds a translation to drop.
TEST_F(ReaderRaceTest, ABeginWaitsForASectionOverARangeAndAnotherDoesNot) {
  for (const uint64_t page : {5u, 6u, 9u}) FaultIn(page);
  std::optional<RangeSection> section(std::in_place, reader_, host_.Pages(5, 3));
  std::array<PagePiece, 1> pieces{{{GpaAt(5)}}};
  ASSERT_EQ(mmu_.Translate(*section, pieces), 1u);
  MovePage(9);
  Gate gate("reader-wait");
  Task begin("begin", [&] { MovePage(6); });
  ASSERT_TRUE(StopsAt(gate, begin));
  section.reset();
  gate.Open();
  begin.Join();
}

//   reader                          invalidation
//   enters its section
//                                   Begin: page 5 has no leaf; waits for the section
//   reads the root; finds no leaf
TEST_F(ReaderRaceTest, ASectionOverARangeThatMeetsABeginFindsNothing) {
  FaultIn(5);
  Gate entered("range-section-entered");
  size_t found = 1;
  Task reader("reader", [&] {
    Reader mine(mmu_.readers());
    const RangeSection section(mine, host_.Pages(5, 3));
    std::array<PagePiece, 1> pieces{{{GpaAt(5)}}};
    found = mmu_.Translate(section, pieces);
  });
  ASSERT_TRUE(StopsAt(entered, reader));
  Gate waits("reader-wait");
  Task begin("begin", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(waits, begin));
  entered.Open();
  reader.Join();
  EXPECT_EQ(found, 0u);
  waits.Open();
  begin.Join();
}

}  // namespace
}  // namespace underfoot::testing
