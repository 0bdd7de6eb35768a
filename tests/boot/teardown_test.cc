// Machines come and go while their memory is churned, and leave nothing.
//
// UNDERFOOT_TEARDOWNS says how often; the default keeps ./dev check short.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "mmu/base/rcu.h"
#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/churn/host_needs.h"
#include "vmm/machine/census.h"
#include "vmm/machine/machine.h"

namespace underfoot::testing {
namespace {

struct Holdings {
  Census census;
  int64_t mappings = 0;
  int64_t resident_kib = 0;
  int64_t heap_kib = 0;  // what malloc has given out and not got back

  static Holdings Now() {
    Holdings holdings{.census = Census::Take(),
                      .heap_kib = static_cast<int64_t>(mallinfo2().uordblks) / 1024};
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) ++holdings.mappings;
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (word == "VmRSS:") status >> holdings.resident_kib;
    }
    return holdings;
  }
};

int Teardowns() {
  const char* text = std::getenv("UNDERFOOT_TEARDOWNS");
  return text == nullptr ? 20 : std::atoi(text);
}

RunOptions OptionsOf(int i) {
  RunOptions options;
  options.guest = "mixed";
  options.memory_bytes = uint64_t{40} << 20;
  options.vcpus = i % 3 == 0 ? 4 : 1;
  options.backing = i % 2 == 0 ? Backing::kMemfd : Backing::kAnon;
  options.seed = static_cast<uint64_t>(i);
  options.name = "test";
  const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec("storm");
  EXPECT_TRUE(spec.ok()) << spec.status();
  options.churn = *spec;
  options.unavailable_churn =
      ProvideForChurn({options.backing}, options.memory_bytes, spec->rates, nullptr).unavailable;
  const absl::StatusOr<ChurnRates> rates = ResolveChurn(*spec, options.ChurnLimitsOfHost());
  EXPECT_TRUE(rates.ok()) << rates.status();
  options.churn.rates = *rates;
  return options;
}

// Every other one with its verdict, the others in the middle of everything.
absl::Status LiveAndGo(int i) {
  absl::StatusOr<std::unique_ptr<Machine>> machine =
      Machine::Create(OptionsOf(i), [](unsigned, std::string_view) {});
  if (!machine.ok()) return std::move(machine).status();
  if (absl::Status started = (*machine)->Start(); !started.ok()) return started;
  const bool moved = WaitUntil(
      [&] {
        const Stats stats = (*machine)->GetStats();
        return TotalOperations(stats.churn.operations) > 100 && stats.guest.pages_checked > 0;
      },
      3 * kDeadline);
  if (!moved) {
    const Stats stats = (*machine)->GetStats();
    return absl::DeadlineExceededError(absl::StrFormat("%d operations, %d pages checked",
                                                       TotalOperations(stats.churn.operations),
                                                       stats.guest.pages_checked));
  }
  return i % 4 == 0 ? (*machine)->Finish() : absl::OkStatus();
}

TEST(TeardownTest, WithChurnRunningLeavesNothing) {
  UNDERFOOT_NEEDS_KVM();
  constexpr int kWarmUps = 6;
  const int teardowns = Teardowns();
  rcu::StartWorker();
  Holdings before;
  for (int i = 0; i < teardowns + kWarmUps; ++i) {
    if (i == kWarmUps) before = Holdings::Now();
    const absl::Status lived = LiveAndGo(i);
    if (absl::IsPermissionDenied(lived)) UNDERFOOT_SKIP(std::string(lived.message()));
    ASSERT_TRUE(lived.ok()) << "machine " << i << ": " << lived;
  }
  rcu::Barrier();
  EXPECT_THAT(LeftBehind(before.census), ::testing::IsEmpty());
  const Holdings after = Holdings::Now();
  std::printf("%d machines: mappings %+ld, heap %+ld KiB, resident %+ld KiB\n", teardowns,
              after.mappings - before.mappings, after.heap_kib - before.heap_kib,
              after.resident_kib - before.resident_kib);
  // An event log alone would be 1024 KiB.
  EXPECT_LT(after.heap_kib, before.heap_kib + 256 + teardowns);
  // Malloc's arenas, the cached stacks of ended threads and the blocks of the pool of tables come
  // and stay, up to what was needed at one time; a guest's RAM would be 40960 KiB each time.
  EXPECT_LT(after.mappings, before.mappings + 16);
  EXPECT_LT(after.resident_kib, before.resident_kib + 16384 + teardowns * 8);
}

}  // namespace
}  // namespace underfoot::testing
