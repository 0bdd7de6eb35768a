#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/seed.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

using ::testing::Optional;

TEST(SeedTest, ReadsDecimalAndHexadecimal) {
  EXPECT_THAT(ParseSeed("42"), Optional(42u));
  EXPECT_THAT(ParseSeed("0x2a"), Optional(42u));
}

TEST(SeedTest, RefusesWhatIsNoNumber) {
  for (const char* text : {"", "0x", "12a", "-1", " 1", "99999999999999999999999"}) {
    EXPECT_EQ(ParseSeed(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(RandomTest, TheSameSeedAndStreamGiveTheSameNumbers) {
  Random one(7, 3);
  Random two(7, 3);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(one.Next(), two.Next());
}

TEST(RandomTest, SeedsAndStreamsDoNotMeet) {
  std::set<uint64_t> firsts;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    for (uint64_t stream = 0; stream < 16; ++stream) firsts.insert(Random(seed, stream).Next());
  }
  EXPECT_EQ(firsts.size(), 256u);
}

TEST(RandomTest, BelowReachesEveryValueAndNoOther) {
  Random random(1, 0);
  std::vector<int> seen(5);
  for (int i = 0; i < 1000; ++i) ++seen.at(random.Below(5));
  for (int count : seen) EXPECT_GT(count, 100);
}

TEST(RandomTest, BetweenIncludesBothEnds) {
  Random random(1, 1);
  std::set<uint64_t> seen;
  for (int i = 0; i < 100; ++i) seen.insert(random.Between(3, 5));
  EXPECT_EQ(seen, (std::set<uint64_t>{3, 4, 5}));
  (void)random.Between(0, UINT64_MAX);
}

TEST(WaitUntilTest, ReturnsWhenAnotherThreadMakesItTrue) {
  std::atomic<bool> done = false;
  std::thread other([&] { done.store(true, std::memory_order_release); });
  EXPECT_TRUE(WaitUntil([&] { return done.load(std::memory_order_acquire); }));
  other.join();
}

TEST(WaitUntilTest, GivesUpAtTheDeadline) {
  EXPECT_FALSE(WaitUntil([] { return false; }, std::chrono::milliseconds(5)));
}

}  // namespace
}  // namespace underfoot::testing
