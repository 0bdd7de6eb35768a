#include "vmm/memory/expected_events.h"

#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

constexpr HvaRange Pages(uint64_t first, uint64_t count) {
  return {{0x100000 + first * kPageSize}, {0x100000 + (first + count) * kPageSize}};
}

TEST(ExpectedEventsTest, AnEventIsExpectedOnce) {
  ExpectedEvents expected;
  EXPECT_FALSE(expected.Consume(Pages(0, 4)));
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(0, 4)));
  EXPECT_FALSE(expected.Consume(Pages(0, 4)));
}

TEST(ExpectedEventsTest, TheKernelMayTellARangeInParts) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(3, 1)));
  EXPECT_TRUE(expected.Consume(Pages(0, 3)));
  EXPECT_FALSE(expected.Consume(Pages(0, 1)));
}

TEST(ExpectedEventsTest, NoMoreBytesAreOursThanWereExpected) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 4));
  EXPECT_TRUE(expected.Consume(Pages(0, 3)));
  EXPECT_FALSE(expected.Consume(Pages(0, 3)));
  EXPECT_TRUE(expected.Consume(Pages(3, 1)));
}

TEST(ExpectedEventsTest, AnEventThatReachesBeyondTheRangeIsForeign) {
  ExpectedEvents expected;
  expected.Expect(Pages(1, 2));
  EXPECT_FALSE(expected.Consume(Pages(0, 2)));
  EXPECT_FALSE(expected.Consume(Pages(2, 2)));
  EXPECT_TRUE(expected.Consume(Pages(1, 2)));
}

TEST(ExpectedEventsTest, TwoCallsOnOneRangeExplainTwoEvents) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 1));
  expected.Expect(Pages(0, 1));
  EXPECT_TRUE(expected.Consume(Pages(0, 1)));
  EXPECT_TRUE(expected.Consume(Pages(0, 1)));
  EXPECT_FALSE(expected.Consume(Pages(0, 1)));
}

TEST(ExpectedEventsTest, ACallThatHasReturnedIsForgotten) {
  ExpectedEvents expected;
  const uint64_t id = expected.Expect(Pages(0, 1));
  expected.Returned(id);
  expected.ForgetReturned();
  EXPECT_FALSE(expected.Consume(Pages(0, 1)));
}

TEST(ExpectedEventsTest, ACallUnderWayIsNotForgotten) {
  ExpectedEvents expected;
  expected.Expect(Pages(0, 1));
  expected.ForgetReturned();
  EXPECT_TRUE(expected.Consume(Pages(0, 1)));
}

TEST(ExpectedEventsTest, TheReturnOfACallWhoseEventsWereAllTakenIsHarmless) {
  ExpectedEvents expected;
  const uint64_t id = expected.Expect(Pages(0, 1));
  EXPECT_TRUE(expected.Consume(Pages(0, 1)));
  expected.Returned(id);
  expected.ForgetReturned();
  EXPECT_FALSE(expected.Consume(Pages(0, 1)));
}

}  // namespace
}  // namespace underfoot::testing
