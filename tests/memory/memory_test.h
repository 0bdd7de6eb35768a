// The scene of the tests of the memory side, over both kinds of memory.

#ifndef UNDERFOOT_TESTS_MEMORY_MEMORY_TEST_H_
#define UNDERFOOT_TESTS_MEMORY_MEMORY_TEST_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "tests/memory/memory_side.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"

// How many handlers read userfaultfd, and the name of the tests that run with them.
#ifndef UNDERFOOT_TEST_HANDLERS
#define UNDERFOOT_TEST_HANDLERS 1
#define UNDERFOOT_TEST_BACKINGS Backing
#endif

namespace underfoot::testing {

class MemoryTest : public ::testing::TestWithParam<Backing> {
 protected:
  // What has not happened by then does not happen. Less than the limit of a negative control.
  static constexpr std::chrono::milliseconds kPatience{12000};

  void SetUp() override { Create(absl::Milliseconds(100)); }

  void Create(absl::Duration settle, uint64_t fault_around = 1) {
    side_.reset();
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.hotplug_bytes = HotplugBytes(),
                            .backing = GetParam(),
                            .fault_around = fault_around,
                            .fault_handlers = UNDERFOOT_TEST_HANDLERS,
                            .removal_bound = settle});
    if (absl::IsPermissionDenied(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
  }

  virtual uint64_t HotplugBytes() const { return 0; }

  void TearDown() override {
    if (side_ == nullptr) return;
    // The monitor may be at the end of a bracket of its own.
    EXPECT_TRUE(WaitUntil([&] { return side_->mmu.in_flight().count() == 0; }));
    EXPECT_EQ(side_->mmu.Stats().notifier.stray_ends, 0u);
  }

  void StartMonitor() {
    const absl::Status started = side_->monitor.Start();
    ASSERT_TRUE(started.ok()) << started;
  }

  static bool memfd() { return GetParam() == Backing::kMemfd; }
  MemorySide& side() { return *side_; }
  Mmu& mmu() { return side_->mmu; }

  // A page with a leaf, by the fault path and not by a fault.
  void FaultIn(uint64_t i, Access access = Access::kWrite) {
    Reader reader(mmu().readers());
    ASSERT_EQ(mmu().faults().FaultIn(reader, side().GfnAt(i), access).outcome,
              FaultInOutcome::kMapped);
  }

  std::unique_ptr<MemorySide> side_;
};

inline std::string BackingOf(const ::testing::TestParamInfo<Backing>& info) {
  return std::string(BackingName(info.param));
}

}  // namespace underfoot::testing

#define UNDERFOOT_FOR_BOTH_BACKINGS_AS(Name, Test)                                              \
  INSTANTIATE_TEST_SUITE_P(                                                                     \
      Name, Test, ::testing::Values(::underfoot::Backing::kAnon, ::underfoot::Backing::kMemfd), \
      ::underfoot::testing::BackingOf)
#define UNDERFOOT_FOR_BOTH_BACKINGS_IN(Name, Test) UNDERFOOT_FOR_BOTH_BACKINGS_AS(Name, Test)
#define UNDERFOOT_FOR_BOTH_BACKINGS(Test) \
  UNDERFOOT_FOR_BOTH_BACKINGS_IN(UNDERFOOT_TEST_BACKINGS, Test)

#endif  // UNDERFOOT_TESTS_MEMORY_MEMORY_TEST_H_
