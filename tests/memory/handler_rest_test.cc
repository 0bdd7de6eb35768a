#include "vmm/sources/uffd/handler_rest.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace underfoot::testing {
namespace {

// Until it rests; returns how often it was woken.
unsigned WakeInVain(HandlerRest& rest, int64_t at_ns) {
  unsigned woken = 1;
  while (!rest.WasWokenInVain(at_ns) && woken < 100) ++woken;
  return woken;
}

TEST(HandlerRestTest, AHandlerThatIsWokenInVainRestsAndComesBack) {
  std::atomic<unsigned> listening{0};
  HandlerRest one(listening);
  const HandlerRest other(listening);
  EXPECT_EQ(WakeInVain(one, 5), HandlerRest::kVainReads);
  EXPECT_TRUE(one.rests());
  EXPECT_EQ(one.until_ns(), 5 + HandlerRest::kFirstNs);
  EXPECT_EQ(listening.load(), 1u);
  one.Listen();
  EXPECT_FALSE(one.rests());
  EXPECT_EQ(listening.load(), 2u);
}

TEST(HandlerRestTest, TheLastOneThatListensDoesNotRest) {
  std::atomic<unsigned> listening{0};
  HandlerRest one(listening);
  EXPECT_EQ(WakeInVain(one, 0), 100u) << "it is the only one";
  HandlerRest other(listening);
  ASSERT_TRUE(one.WasWokenInVain(0));
  EXPECT_EQ(WakeInVain(other, 0), 100u) << "the other one rests";
  EXPECT_EQ(listening.load(), 1u);
  one.Listen();
  EXPECT_TRUE(other.WasWokenInVain(0));
}

TEST(HandlerRestTest, AMessageInBetweenKeepsItAwake) {
  std::atomic<unsigned> listening{0};
  HandlerRest one(listening);
  const HandlerRest other(listening);
  for (unsigned i = 0; i < 4 * HandlerRest::kVainReads; ++i) {
    EXPECT_FALSE(one.WasWokenInVain(0));
    if (i % 2 == 0) one.FoundMessage();
  }
}

TEST(HandlerRestTest, EachRestIsTwiceAsLongUntilItGetsAMessage) {
  std::atomic<unsigned> listening{0};
  HandlerRest one(listening);
  const HandlerRest other(listening);
  std::vector<int64_t> rests;
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(WakeInVain(one, 0), HandlerRest::kVainReads);
    rests.push_back(*one.until_ns());
    one.Listen();
    if (i == 4) one.FoundMessage();
  }
  const std::vector<int64_t> expected{1'000'000, 2'000'000, 4'000'000,
                                      8'000'000, 8'000'000, 1'000'000};
  EXPECT_EQ(rests, expected);
}

TEST(HandlerRestTest, AHandlerThatEndsIsNotCounted) {
  std::atomic<unsigned> listening{0};
  HandlerRest one(listening);
  {
    HandlerRest rests(listening);
    WakeInVain(rests, 0);
    const HandlerRest listens(listening);
    EXPECT_EQ(listening.load(), 3u - (rests.rests() ? 1 : 0));
  }
  EXPECT_EQ(listening.load(), 1u);
}

}  // namespace
}  // namespace underfoot::testing
