// Random operations on the real library, each compared with the model. UNDERFOOT_SOAK_OPERATIONS
// and UNDERFOOT_SOAK_THREADS make the run with many threads longer: see ./dev soak.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>

#include "tests/oracle/memory.h"
#include "tests/oracle/run.h"
#include "tests/support/seed.h"

namespace underfoot::oracle {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kOperations = 100'000;
#else
constexpr uint64_t kOperations = 1'000'000;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(OracleTest, OneThreadEqualsTheModelAndReplaysFromItsSeed) {
  const uint64_t seed = testing::Seed();
  const Report run = RunThreads(kOperations / 4, 1, seed);
  ExpectGood(run);
  const Report again = RunThreads(kOperations / 4, 1, seed);
  EXPECT_EQ(run.digest, again.digest);
  EXPECT_EQ(run.compared.outcomes, again.compared.outcomes);
}

TEST(OracleTest, ManyThreadsEqualTheModel) {
  const uint64_t operations = FromEnvironment("UNDERFOOT_SOAK_OPERATIONS", kOperations);
  const uint64_t threads = FromEnvironment("UNDERFOOT_SOAK_THREADS", 3);
  ASSERT_TRUE(threads >= 1 && threads < kMaxThreads) << threads << " threads";
  const Report run = RunThreads(operations, static_cast<unsigned>(threads), testing::Seed());
  ExpectGood(run);
  EXPECT_TRUE(threads == 1 || run.compared.waits > 0);
}

}  // namespace
}  // namespace underfoot::oracle
