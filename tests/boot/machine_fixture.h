// A whole machine and its guest, for the tests that judge it by the guest and by the stats.

#ifndef UNDERFOOT_TESTS_BOOT_MACHINE_FIXTURE_H_
#define UNDERFOOT_TESTS_BOOT_MACHINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "tests/boot/machine_options.h"
#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/machine/machine.h"

namespace underfoot::testing {

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override { UNDERFOOT_NEEDS_KVM(); }
  // Its vCPUs call OnLine, which may use members of a derived fixture.
  void TearDown() override { machine_.reset(); }

  // Null, and the test is skipped or has failed, when there is no machine.
  void Start(const RunOptions& options) {
    absl::StatusOr<std::unique_ptr<Machine>> machine =
        Machine::Create(options, [this](unsigned, std::string_view line) { OnLine(line); });
    if (absl::IsPermissionDenied(machine.status())) {
      UNDERFOOT_SKIP(std::string(machine.status().message()));
    }
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    const absl::Status started = machine_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }

  // Called for each line of the guest.
  virtual void OnLine(std::string_view) { ++lines_; }

  // True as soon as the stats are like that.
  template <class Predicate>
  bool Becomes(const Predicate& predicate) {
    return WaitUntil([&] { return predicate(machine_->GetStats()); }, 3 * kDeadline);
  }

  void FinishWell() {
    const absl::Status finished = machine_->Finish();
    EXPECT_TRUE(finished.ok()) << finished;
    const Stats stats = machine_->GetStats();
    EXPECT_EQ(stats.vm.state, VmState::kStopped);
    EXPECT_EQ(stats.guest.verdict, GuestVerdict::kGood);
    EXPECT_EQ(stats.guest.mismatches, 0u);
    EXPECT_EQ(stats.audit.unexplained, 0u);
    EXPECT_GT(stats.audit.checks, 0u);
    EXPECT_EQ(stats.notifier.begins, stats.notifier.ends);
    EXPECT_EQ(stats.notifier.stray_ends, 0u);
    EXPECT_EQ(stats.rcu.retired, stats.rcu.freed);
  }

  std::unique_ptr<Machine> machine_;
  std::atomic<int> lines_{0};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_MACHINE_FIXTURE_H_
