// Which of the kernel's records belongs to which removal that userfaultfd has reported.

#include "vmm/evidence/removal_records.h"

#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

constexpr Hva kRecordedRam{0x7f0000000000};
constexpr uint64_t kRecordedPages = 4096;
constexpr int64_t kReadNs = 1'000'000'000;
constexpr int64_t kTooLateNs = kReadNs + 50'000'001;

HvaRange RecordedPages(uint64_t first, uint64_t count = 1) {
  return PageRangeOf(kRecordedRam + first * kPageSize, count);
}

class RemovalRecordsTest : public ::testing::Test {
 protected:
  bool Explains(HvaRange pages, int64_t time_ns = kReadNs + 1, bool may_be_zap = true) {
    return records_.Explains(pages, time_ns, may_be_zap);
  }
  size_t Recorded() { return records_.TakeRecorded().size(); }

  RemovalRecords records_{RecordedPages(0, kRecordedPages)};
};

TEST_F(RemovalRecordsTest, ARecordOfExactlyTheRemovalIsItsZap) {
  records_.Reported(RecordedPages(3, 4), kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(3, 4)));
  const auto recorded = records_.TakeRecorded();
  ASSERT_EQ(recorded.size(), 1u);
  EXPECT_EQ(recorded[0].range, RecordedPages(3, 4));
  EXPECT_EQ(recorded[0].read_ns, kReadNs);
  EXPECT_EQ(Recorded(), 0u) << "it is returned once";
}

TEST_F(RemovalRecordsTest, ARecordOfAPartIsExplainedAndProvesNoZap) {
  records_.Reported(RecordedPages(3, 4), kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(4)));
  EXPECT_FALSE(Explains(RecordedPages(6, 2))) << "beyond the removal";
  EXPECT_EQ(Recorded(), 0u);
}

TEST_F(RemovalRecordsTest, ARemovalExplainsEachByteOnce) {
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(3)));
  EXPECT_FALSE(Explains(RecordedPages(3)));
}

TEST_F(RemovalRecordsTest, ARecordOfBeforeTheReadProvesNoZap) {
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(3), kReadNs - 1));
  EXPECT_EQ(Recorded(), 0u);
}

TEST_F(RemovalRecordsTest, ALateRecordIsForeign) {
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_FALSE(Explains(RecordedPages(3), kTooLateNs));
}

TEST_F(RemovalRecordsTest, ARecordMayComeBeforeTheReport) {
  EXPECT_FALSE(Explains(RecordedPages(3), kReadNs + 1));
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_EQ(Recorded(), 1u);
}

TEST_F(RemovalRecordsTest, AnEarlyRecordOfBeforeTheReadProvesNoZap) {
  EXPECT_FALSE(Explains(RecordedPages(3), kReadNs - 1));
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_EQ(Recorded(), 0u);
}

TEST_F(RemovalRecordsTest, ARecordByAKernelThreadProvesNoZapEarlyOrLate) {
  EXPECT_FALSE(Explains(RecordedPages(3), kReadNs + 1, false));
  records_.Reported(RecordedPages(3), kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(3), kReadNs + 1, false));
  EXPECT_EQ(Recorded(), 0u);
}

// The kernel's records are filtered to RAM, and userfaultfd's events may reach beyond it.
TEST_F(RemovalRecordsTest, ARemovalThatReachesBeyondRamIsComparedByItsPagesInRam) {
  const HvaRange removed{kRecordedRam - kPageSize, kRecordedRam + kPageSize};
  records_.Reported(removed, kReadNs);
  EXPECT_TRUE(Explains(RecordedPages(0)));
  const auto recorded = records_.TakeRecorded();
  ASSERT_EQ(recorded.size(), 1u);
  EXPECT_EQ(recorded[0].range, removed);
}

TEST_F(RemovalRecordsTest, ADiscardedRemovalMakesOnlyItsRecordForeign) {
  records_.Reported(RecordedPages(0), kReadNs);
  for (uint64_t i = 1; i <= RemovalRecords::kKept; ++i)
    records_.Reported(RecordedPages(i), kReadNs);
  EXPECT_FALSE(Explains(RecordedPages(0)));
  EXPECT_TRUE(Explains(RecordedPages(1)));
}

}  // namespace
}  // namespace underfoot::testing
