#include "tests/oracle/run.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/oracle/driver.h"

namespace underfoot::oracle {
namespace {

// A thread that retires too many tables waits for the worker that frees them, which runs about
// every 10 ms. A run with one thread has a cap low enough to meet this now and then. A run with
// many threads has a high cap, so that the threads meet each other more often.
constexpr uint64_t kSmallCap = uint64_t{2} << 20;
constexpr uint64_t kLargeCap = uint64_t{64} << 20;

// A comparison that was never made proves nothing.
void ExpectEverythingWasCompared(const Comparisons& compared) {
  for (unsigned kind = 0; kind < kKinds; ++kind) {
    EXPECT_GT(compared.MadeOf(static_cast<Kind>(kind)), 0u) << NameOf(static_cast<Kind>(kind));
  }
  EXPECT_GT(compared.Of(Kind::kPublish, Result::kStolen), 0u);
  EXPECT_GT(compared.Of(Kind::kClaim, Result::kTable), 0u);
  EXPECT_GT(compared.Of(Kind::kFault, Result::kBlocked), 0u);
  EXPECT_GT(compared.Of(Kind::kAnswered, Result::kAgain), 0u);
  EXPECT_GT(compared.Of(Kind::kAnswered, Result::kValid), 0u);
  EXPECT_GT(compared.entries, 0u);
  EXPECT_GT(compared.caches, 0u);
  EXPECT_GT(compared.in_flight, 0u);
  EXPECT_GT(compared.contents, 0u);
  EXPECT_GT(compared.sections, 0u);
  EXPECT_GT(compared.freezes, 0u);
  EXPECT_GT(compared.waited, 0u);
  EXPECT_GT(compared.subscriber, 0u);
  EXPECT_GT(compared.interposed, 0u);
  EXPECT_GT(compared.registrations, 0u);
  EXPECT_GT(compared.censuses, 0u);
}

}  // namespace

Report RunThreads(uint64_t operations, unsigned threads, uint64_t seed, Shortage* shortage) {
  constexpr uint64_t kParts = 20;
  constexpr uint64_t kLong = 20'000'000;
  const uint64_t part = operations / threads / kParts + 1;
  const auto start = std::chrono::steady_clock::now();
  World world(threads == 1 ? kSmallCap : kLargeCap);
  world.shortage = shortage;
  std::mutex mutex;
  Report run;
  const auto play = [&](unsigned thread) {
    Driver driver(world, thread, seed);
    for (uint64_t i = 1; i <= kParts && !world.failed(); ++i) {
      driver.Play(part);
      if (thread != 0 || operations < kLong) continue;
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      std::printf("%3lu%%, %.0f s, %.2f M operations/s by this thread of %u\n", i * 100 / kParts,
                  passed.count(), static_cast<double>(driver.made()) / 1e6 / passed.count(),
                  threads);
      std::fflush(stdout);
    }
    std::lock_guard lock(mutex);
    run.compared += driver.compared();
    run.operations += driver.made();
    run.digest ^= driver.digest();
  };
  std::vector<std::thread> drivers;
  for (unsigned thread = 0; thread < threads; ++thread) drivers.emplace_back(play, thread);
  for (std::thread& driver : drivers) driver.join();
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  std::thread([&] {
    world.shortage = nullptr;
    Driver last(world, threads, seed);
    if (!world.failed()) last.CleanUp();
    run.compared += last.compared();
  }).join();
  run.failure = world.failure();
  run.tables_left = world.mmu().Stats().stage2.tables;
  run.stray_ends = world.mmu().Stats().notifier.stray_ends;
  if (run.failure.empty())
    std::printf("%s%u threads, seed %lu: %lu operations in %.1f s, %.2f M/s\n",
                run.compared.Text().c_str(), threads, seed, run.operations, passed.count(),
                static_cast<double>(run.operations) / 1e6 / passed.count());
  return run;
}

void ExpectGood(const Report& run) {
  ASSERT_TRUE(run.failure.empty()) << run.failure;
  EXPECT_EQ(run.tables_left, 1u);
  EXPECT_EQ(run.stray_ends, run.compared.Of(Kind::kEnd, Result::kStray));
  ExpectEverythingWasCompared(run.compared);
}

}  // namespace underfoot::oracle
