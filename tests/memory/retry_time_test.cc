#include "vmm/sources/uffd/retry_time.h"

#include <gtest/gtest.h>

#include <vector>

namespace underfoot::testing {
namespace {

TEST(RetryTimeTest, EachTimeItIsPutOffForTwiceAsLongUpToAMillisecond) {
  RetryTime retry;
  int64_t now = 7'000;
  std::vector<int64_t> waits;
  for (int i = 0; i < 7; ++i) {
    retry.PutOff(now);
    waits.push_back(retry.due_ns() - now);
    now += 3'000'000;  // however late it is tried
  }
  const std::vector<int64_t> expected{50'000,  100'000,   200'000,  400'000,
                                      800'000, 1'000'000, 1'000'000};
  EXPECT_EQ(waits, expected);
}

}  // namespace
}  // namespace underfoot::testing
