#include "vmm/evidence/expected_events.h"

#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

constexpr HvaRange Pages(uint64_t first, uint64_t count) {
  return {{0x100000 + first * kPageSize}, {0x100000 + (first + count) * kPageSize}};
}

TEST(ExpectedEventsTest, AnEventIsExpectedOnce) {
  ExpectedEvents expected;
  EXPECT_FALSE(expected.Consume(Pages(0, 4), expected.Returns()));
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(0, 4), expected.Returns()));
  EXPECT_FALSE(expected.Consume(Pages(0, 4), expected.Returns()));
}

TEST(ExpectedEventsTest, TheKernelMayReportARangeInParts) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(3, 1), expected.Returns()));
  EXPECT_TRUE(expected.Consume(Pages(0, 3), expected.Returns()));
  EXPECT_FALSE(expected.Consume(Pages(0, 1), expected.Returns()));
}

TEST(ExpectedEventsTest, NoMoreBytesAreOursThanWereExpected) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(0, 3), expected.Returns()));
  EXPECT_FALSE(expected.Consume(Pages(0, 3), expected.Returns()));
  EXPECT_TRUE(expected.Consume(Pages(3, 1), expected.Returns()));
}

TEST(ExpectedEventsTest, AnEventThatReachesBeyondTheRangeIsForeign) {
  ExpectedEvents expected;
  expected.Expect(Pages(1, 2));
  EXPECT_FALSE(expected.Consume(Pages(0, 2), expected.Returns()));
  EXPECT_FALSE(expected.Consume(Pages(2, 2), expected.Returns()));
  EXPECT_TRUE(expected.Consume(Pages(1, 2), expected.Returns()));
}

TEST(ExpectedEventsTest, TwoCallsOnOneRangeExplainTwoEvents) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 1));
  expected.Expect(Pages(0, 1));
  EXPECT_TRUE(expected.Consume(Pages(0, 1), expected.Returns()));
  EXPECT_TRUE(expected.Consume(Pages(0, 1), expected.Returns()));
  EXPECT_FALSE(expected.Consume(Pages(0, 1), expected.Returns()));
}

// A call that failed has no event; what another process does to its range later has one.
TEST(ExpectedEventsTest, AnEventThatIsReadAfterTheCallHasReturnedIsForeign) {
  ExpectedEvents expected;
  expected.Returned(expected.Expect(Pages(0, 1)));
  EXPECT_FALSE(expected.Consume(Pages(0, 1), expected.Returns()));
}

// The read lets the call go on, and its handler takes the event up only afterwards; meanwhile other
// handlers read, and other calls return.
TEST(ExpectedEventsTest, AnEventThatWasReadBeforeTheCallReturnedIsItsOwn) {
  ExpectedEvents expected;
  const uint64_t id = expected.Expect(Pages(0, 1));
  expected.Returned(expected.Expect(Pages(4, 1)));
  const uint64_t since = expected.Returns();
  expected.Returned(id);
  EXPECT_FALSE(expected.Consume(Pages(0, 1), expected.Returns()));
  EXPECT_TRUE(expected.Consume(Pages(0, 1), since));
  EXPECT_FALSE(expected.Consume(Pages(0, 1), since));
}

TEST(ExpectedEventsTest, TheReturnOfACallWhoseEventsWereAllConsumedIsHarmless) {
  ExpectedEvents expected;
  const uint64_t since = expected.Returns();
  const uint64_t id = expected.Expect(Pages(0, 1));
  EXPECT_TRUE(expected.Consume(Pages(0, 1), since));
  expected.Returned(id);
  EXPECT_FALSE(expected.Consume(Pages(0, 1), since));
}

TEST(ExpectedEventsTest, CallsWithoutEventsAreNotKeptForEver) {
  ExpectedEvents expected;
  const uint64_t since = expected.Returns();
  for (uint64_t i = 0; i < 1000; ++i) expected.Returned(expected.Expect(Pages(i, 1)));
  EXPECT_FALSE(expected.Consume(Pages(0, 1), since));
  EXPECT_TRUE(expected.Consume(Pages(999, 1), since));
}

}  // namespace
}  // namespace underfoot::testing
