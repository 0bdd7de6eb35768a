#include "vmm/sources/uffd/handler_back_off.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace underfoot::testing {
namespace {

// Until it backs off; returns how often it was woken.
unsigned WakeUntilItBacksOff(HandlerBackOff& back_off, int64_t at_ns) {
  unsigned woken = 1;
  while (!back_off.WokenSpuriously(at_ns) && woken < 100) ++woken;
  return woken;
}

TEST(HandlerBackOffTest, SpuriousWakeUpsMakeAHandlerBackOffAndItComesBack) {
  std::atomic<unsigned> listening{0};
  HandlerBackOff one(listening);
  const HandlerBackOff other(listening);
  EXPECT_EQ(WakeUntilItBacksOff(one, 5), HandlerBackOff::kSpuriousWakeUps);
  EXPECT_TRUE(one.backs_off());
  EXPECT_EQ(one.until_ns(), 5 + HandlerBackOff::kFirstNs);
  EXPECT_EQ(listening.load(), 1u);
  one.Listen();
  EXPECT_FALSE(one.backs_off());
  EXPECT_EQ(listening.load(), 2u);
}

TEST(HandlerBackOffTest, TheLastOneThatListensDoesNotBackOff) {
  std::atomic<unsigned> listening{0};
  HandlerBackOff one(listening);
  EXPECT_EQ(WakeUntilItBacksOff(one, 0), 100u) << "it is the only one";
  HandlerBackOff other(listening);
  ASSERT_TRUE(one.WokenSpuriously(0));
  EXPECT_EQ(WakeUntilItBacksOff(other, 0), 100u) << "the other one backs off";
  EXPECT_EQ(listening.load(), 1u);
  one.Listen();
  EXPECT_TRUE(other.WokenSpuriously(0));
}

TEST(HandlerBackOffTest, AMessageInBetweenKeepsItAwake) {
  std::atomic<unsigned> listening{0};
  HandlerBackOff one(listening);
  const HandlerBackOff other(listening);
  for (unsigned i = 0; i < 4 * HandlerBackOff::kSpuriousWakeUps; ++i) {
    EXPECT_FALSE(one.WokenSpuriously(0));
    if (i % 2 == 0) one.FoundMessage();
  }
}

TEST(HandlerBackOffTest, EachBackOffIsTwiceAsLongUntilItGetsAMessage) {
  std::atomic<unsigned> listening{0};
  HandlerBackOff one(listening);
  const HandlerBackOff other(listening);
  std::vector<int64_t> ends;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(WakeUntilItBacksOff(one, 0), HandlerBackOff::kSpuriousWakeUps);
    ends.push_back(*one.until_ns());
    one.Listen();
    if (i == 4) one.FoundMessage();
  }
  const std::vector<int64_t> expected{1'000'000, 2'000'000, 4'000'000,
                                      8'000'000, 8'000'000, 1'000'000};
  EXPECT_EQ(ends, expected);
}

TEST(HandlerBackOffTest, AHandlerThatEndsIsNotCounted) {
  std::atomic<unsigned> listening{0};
  HandlerBackOff one(listening);
  {
    HandlerBackOff last(listening);
    WakeUntilItBacksOff(last, 0);
    const HandlerBackOff listens(listening);
    EXPECT_EQ(listening.load(), 3u - (last.backs_off() ? 1 : 0));
  }
  EXPECT_EQ(listening.load(), 1u);
}

}  // namespace
}  // namespace underfoot::testing
