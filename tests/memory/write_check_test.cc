// What the check of the dirty log says of collections that are right, late, wrong or too large. The
// test is the guest: it records its writes as abi::Visit asks.

#include "vmm/dirty/write_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <optional>

#include "absl/strings/str_format.h"
#include "tests/memory/memory_test.h"

namespace underfoot::testing {
namespace {

class WriteCheckTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    StartMonitor();
    reports_.emplace(side().memory->slots()[0].hva, 1);
    check_.emplace(*side().memory, *reports_);
    Word<uint64_t>(abi::kBootInfoGpa + offsetof(abi::BootInfo, visit_epoch)) = 1;
  }
  void TearDown() override {
    check_.reset();
    MemoryTest::TearDown();
  }

  template <class T>
  std::atomic_ref<T> Word(uint64_t gpa) {
    return std::atomic_ref<T>(*static_cast<T*>(PointerOf(*side().memory->HvaOf(Gpa{gpa}))));
  }
  uint32_t Epoch() {
    return static_cast<uint32_t>(
        Word<uint64_t>(abi::kBootInfoGpa + offsetof(abi::BootInfo, visit_epoch)).load());
  }
  void Record(uint64_t i, uint32_t epoch) {
    Word<uint32_t>(abi::VisitGpa(side().GpaAt(i).value) + offsetof(abi::Visit, written)) = epoch;
  }
  void Visit(std::optional<uint64_t> i) {
    Word<uint64_t>(abi::ReportGpa(0) + offsetof(abi::Report, visiting_page)) =
        i.has_value() ? side().GpaAt(*i).value : 0;
  }

  // The page that the VMM itself writes for each collection, and these.
  DirtyBitmap Pages(std::initializer_list<uint64_t> tests_pages) {
    std::vector<uint64_t> words(DirtyBitmap::WordsFor(side().memory->bytes() >> kPageShift));
    const auto add = [&](uint64_t gfn) { words[gfn / 64] |= uint64_t{1} << gfn % 64; };
    add(abi::kBootInfoGpa / kPageSize);
    for (const uint64_t i : tests_pages) add(side().GfnAt(i).value);
    return DirtyBitmap(words);
  }
  void Collection(std::initializer_list<uint64_t> pages) {
    check_->Before();
    check_->After(Pages(pages));
  }

  std::optional<GuestReports> reports_;
  std::optional<WriteCheck> check_;
};

TEST_P(WriteCheckTest, AWriteThatItsCollectionReportsIsNotMissed) {
  Record(3, Epoch());
  Collection({3});
  EXPECT_EQ(check_->missed(), 0u);
  EXPECT_EQ(check_->checked(), 2u) << "the page, and the VMM's own";
  EXPECT_EQ(check_->needless(), 0u);
}

TEST_P(WriteCheckTest, AWriteThatNoCollectionReportsIsMissedOnceAndNamed) {
  Collection({});
  Record(3, Epoch());
  Collection({4});
  Collection({});
  EXPECT_EQ(check_->missed(), 1u);
  EXPECT_THAT(check_->first_missed(),
              ::testing::HasSubstr(absl::StrFormat("gfn 0x%x", side().GfnAt(3).value)));
}

TEST_P(WriteCheckTest, AReportFromBeforeTheWriteDoesNotCount) {
  Record(3, Epoch());
  Collection({3});
  Record(3, Epoch());
  Collection({});
  EXPECT_EQ(check_->missed(), 1u);
}

TEST_P(WriteCheckTest, AWriteDuringACollectionMayBeInThatOneOrInTheNext) {
  for (const bool late : {false, true}) {
    check_->Before();
    Record(3, Epoch());
    check_->After(late ? Pages({}) : Pages({3}));
    late ? Collection({3}) : Collection({});
  }
  EXPECT_EQ(check_->missed(), 0u);
  EXPECT_EQ(check_->needless(), 0u);
  check_->Before();
  Record(3, Epoch());
  check_->After(Pages({}));
  Collection({});
  EXPECT_EQ(check_->missed(), 1u) << "and not in none";
}

TEST_P(WriteCheckTest, APageThatIsVisitedMayBeRecordedAndNotWrittenYet) {
  Visit(3);
  Record(3, Epoch());
  Collection({});
  Collection({});
  EXPECT_EQ(check_->missed(), 0u);
  Visit(std::nullopt);
  Collection({3});
  EXPECT_EQ(check_->missed(), 0u);
  Collection({});
  EXPECT_EQ(check_->missed(), 0u);
}

TEST_P(WriteCheckTest, AVisitedPageThatIsNeverReportedIsMissedLater) {
  Visit(3);
  Record(3, Epoch());
  Collection({});
  Visit(4);
  Collection({});
  EXPECT_EQ(check_->missed(), 1u);
}

TEST_P(WriteCheckTest, APageThatWasNotWrittenIsReportedNeedlessly) {
  Collection({5});
  EXPECT_EQ(check_->needless(), 1u);
  Record(5, Epoch());
  Collection({5});
  EXPECT_EQ(check_->needless(), 1u);
  Collection({5});
  Collection({5});
  EXPECT_EQ(check_->needless(), 3u);
}

TEST_P(WriteCheckTest, TheMachinesOwnWriteIsCheckedToo) {
  check_->Before();
  check_->After(DirtyBitmap(
      std::vector<uint64_t>(DirtyBitmap::WordsFor(side().memory->bytes() >> kPageShift))));
  EXPECT_EQ(check_->missed(), 1u);
  EXPECT_THAT(check_->first_missed(), ::testing::HasSubstr("gfn 0x1, "));
}

TEST_P(WriteCheckTest, ACollectionThatFailedIsMadeAgain) {
  check_->Before();
  Record(3, Epoch());
  check_->Before();
  check_->After(Pages({3}));
  Collection({});
  EXPECT_EQ(check_->missed(), 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(WriteCheckTest);

}  // namespace
}  // namespace underfoot::testing
