// Pausing, resuming and stopping vCPUs that run a real guest.

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

std::unique_ptr<MinimalVmm> Make(unsigned vcpus, abi::Workload workload = abi::Workload::kStamp) {
  auto vmm = MinimalVmm::Create({.populate = true, .vcpus = vcpus, .workload = workload});
  EXPECT_TRUE(vmm.ok()) << vmm.status();
  return vmm.ok() ? *std::move(vmm) : nullptr;
}

[[nodiscard]] bool RunsOn(const MinimalVmm& vmm, uint64_t vcpu) {
  const uint64_t before = vmm.reports().Read(vcpu).rounds;
  return WaitUntil([&] { return vmm.reports().Read(vcpu).rounds > before + 2; });
}

TEST(Pause, StandsStillUntilResumeAndIsIdempotent) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(2);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());
  ASSERT_TRUE(RunsOn(*vmm, 0));

  vmm->vcpu(0).Pause();
  vmm->vcpu(0).Pause();
  const uint64_t at_pause = vmm->reports().Read(0).pages_checked;
  EXPECT_TRUE(RunsOn(*vmm, 1));  // the other does go on, so time has passed
  EXPECT_EQ(vmm->reports().Read(0).pages_checked, at_pause);
  EXPECT_TRUE(vmm->vcpu(0).vcpu().GetRegisters().ok());

  vmm->vcpu(0).Resume();
  vmm->vcpu(0).Resume();
  EXPECT_TRUE(RunsOn(*vmm, 0));
  vmm->RequestStop();
  EXPECT_TRUE(vmm->Join().ok());
  EXPECT_EQ(vmm->platform().exit_device().overall(), abi::Verdict::kGood);
}

TEST(Pause, BeforeTheStartHoldsTheFirstInstruction) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(1);
  ASSERT_NE(vmm, nullptr);

  vmm->vcpu(0).Pause();
  ASSERT_TRUE(vmm->Start().ok());
  vmm->vcpu(0).Pause();
  EXPECT_EQ(vmm->reports().Read(0).state, abi::VcpuState::kNotStarted);

  vmm->vcpu(0).Resume();
  EXPECT_TRUE(RunsOn(*vmm, 0));
}

TEST(Pause, ComesManyTimesWithoutLosingAKick) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(2, abi::Workload::kMixed);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());

  for (int i = 0; i < 200; ++i) {
    vmm->vcpu(0).Pause();
    vmm->vcpu(1).Pause();
    vmm->vcpu(0).Resume();
    vmm->vcpu(1).Resume();
  }
  EXPECT_TRUE(RunsOn(*vmm, 0));
  EXPECT_GT(vmm->vcpu(0).exits().kicks, 0u);
  vmm->RequestStop();
  EXPECT_TRUE(vmm->Join().ok());
  EXPECT_EQ(vmm->platform().exit_device().overall(), abi::Verdict::kGood);
}

TEST(Pause, FromTwoThreadsAtOnceEndsForBoth) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(1);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());

  const auto pause_often = [&] {
    for (int i = 0; i < 100; ++i) {
      vmm->vcpu(0).Pause();
      vmm->vcpu(0).Resume();
    }
  };
  std::thread other(pause_often);
  pause_often();
  other.join();
  EXPECT_TRUE(RunsOn(*vmm, 0));
}

TEST(Stop, EndsAGuestWithoutAStopRequest) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(2, abi::Workload::kSmp);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());
  ASSERT_TRUE(RunsOn(*vmm, 1));

  vmm->vcpu(0).Stop();
  vmm->vcpu(1).Stop();
  vmm->vcpu(1).Pause();  // too late, and no hang
  EXPECT_TRUE(vmm->vcpu(0).ended());
  EXPECT_TRUE(vmm->vcpu(1).ended());
  EXPECT_TRUE(vmm->Join().ok());
  EXPECT_EQ(vmm->platform().exit_device().overall(), std::nullopt);
}

TEST(Stop, EndsAPausedVcpu) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(1);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());
  vmm->vcpu(0).Pause();
  vmm->vcpu(0).Stop();
  EXPECT_TRUE(vmm->Join().ok());
}

TEST(Stop, BeforeTheStartRunsNothing) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(1);
  ASSERT_NE(vmm, nullptr);
  vmm->vcpu(0).Stop();
  ASSERT_TRUE(vmm->Start().ok());
  EXPECT_TRUE(vmm->Join().ok());
  EXPECT_EQ(vmm->reports().Read(0).state, abi::VcpuState::kNotStarted);
}

TEST(Start, IsRefusedTheSecondTime) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(1, abi::Workload::kHello);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->vcpu(0).Start().ok());
  EXPECT_EQ(vmm->vcpu(0).Start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Machines, ComeAndGoFortyTimes) {
  UNDERFOOT_NEEDS_KVM();
  for (int i = 0; i < 40; ++i) {
    const auto vmm = Make(2);
    ASSERT_NE(vmm, nullptr);
    ASSERT_TRUE(vmm->Start().ok());
  }
}

TEST(RequestStop, EndsTheGuestAtEveryVcpu) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make(4, abi::Workload::kMixed);
  ASSERT_NE(vmm, nullptr);
  ASSERT_TRUE(vmm->Start().ok());
  ASSERT_TRUE(RunsOn(*vmm, 3));

  vmm->RequestStop();
  EXPECT_TRUE(vmm->Join().ok());

  EXPECT_EQ(vmm->platform().exit_device().overall(), abi::Verdict::kGood);
  EXPECT_EQ(vmm->reports().Total().done, 4u);
}

}  // namespace
}  // namespace underfoot::testing
