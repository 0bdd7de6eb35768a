// Guests that go wrong must say so and end, never hang.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPageFault = 14;
constexpr uint64_t kLargePage = uint64_t{2} << 20;
// The page directory of the first GiB: root and pointers lie before it.
constexpr Gpa kDirectory{abi::kPageTablesGpa + 2 * kPageSize};

std::unique_ptr<MinimalVmm> Make(const MinimalVmmOptions& options) {
  auto vmm = MinimalVmm::Create(options);
  EXPECT_TRUE(vmm.ok()) << vmm.status();
  return vmm.ok() ? *std::move(vmm) : nullptr;
}

// The guest's own page tables lack the 2 MiB at `gpa`.
void TakeFromGuest(MinimalVmm& vmm, Gpa gpa) {
  vmm.WriteWord(kDirectory + gpa.value / kLargePage * sizeof(uint64_t), 0);
}

TEST(GuestException, IsReportedWithVectorRipAndAddress) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make({.workload = abi::Workload::kStamp});
  ASSERT_NE(vmm, nullptr);
  const Gpa taken = vmm->slot(MinimalVmm::kPrecious).gpa + kLargePage;
  TakeFromGuest(*vmm, taken);

  ASSERT_TRUE(vmm->Start().ok());
  const absl::Status joined = vmm->Join();

  EXPECT_TRUE(joined.ok()) << joined;
  EXPECT_EQ(vmm->platform().exit_device().overall(), abi::Verdict::kException);
  const abi::Report report = vmm->reports().Read(0);
  EXPECT_EQ(report.state, abi::VcpuState::kException);
  EXPECT_EQ(report.exception_vector, kPageFault);
  EXPECT_GE(report.exception_cr2, taken.value);
  EXPECT_LT(report.exception_cr2, taken.value + kLargePage);
  EXPECT_GE(report.exception_rip, abi::kImageGpa);
  EXPECT_LT(report.exception_rip, abi::kImageEnd);
  ASSERT_EQ(vmm->lines().size(), 1u);
  EXPECT_NE(vmm->lines()[0].find("EXCEPTION vector 14"), std::string::npos) << vmm->lines()[0];
}

TEST(GuestException, OfOneVcpuEndsTheOthersAtTheirBarrier) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make({.vcpus = 2, .workload = abi::Workload::kMixed});
  ASSERT_NE(vmm, nullptr);
  TakeFromGuest(*vmm, vmm->slot(MinimalVmm::kPrecious).gpa + kLargePage);

  ASSERT_TRUE(vmm->Start().ok());
  EXPECT_TRUE(vmm->Join().ok());

  for (unsigned vcpu = 0; vcpu < 2; ++vcpu) {
    const auto verdict = vmm->platform().exit_device().verdict(vcpu);
    EXPECT_TRUE(verdict == abi::Verdict::kException || verdict == abi::Verdict::kAborted);
  }
  EXPECT_EQ(vmm->reports().Total().verdict, abi::Verdict::kException);
}

TEST(BadBootInfo, IsRefusedByTheGuest) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make({.workload = abi::Workload::kStamp});
  ASSERT_NE(vmm, nullptr);
  vmm->WriteWord({abi::kBootInfoGpa + offsetof(abi::BootInfo, version)}, abi::kVersion + 1);

  ASSERT_TRUE(vmm->Start().ok());
  EXPECT_TRUE(vmm->Join().ok());

  EXPECT_EQ(vmm->platform().exit_device().overall(), abi::Verdict::kBadBootInfo);
}

TEST(GuestWithoutCode, EndsWithAFatalErrorThatNamesTheExit) {
  UNDERFOOT_NEEDS_KVM();
  const auto vmm = Make({.workload = abi::Workload::kHello});
  ASSERT_NE(vmm, nullptr);
  TakeFromGuest(*vmm, {abi::kImageGpa});  // neither the entry nor a handler can be fetched

  ASSERT_TRUE(vmm->Start().ok());
  const absl::Status joined = vmm->Join();

  ASSERT_FALSE(joined.ok());
  EXPECT_NE(joined.message().find("vCPU 0"), std::string::npos) << joined;
  EXPECT_NE(joined.message().find("rip 0x"), std::string::npos) << joined;
  EXPECT_TRUE(vmm->vcpu(0).ended());
}

TEST(AccessBeyondMemory, EndsWithAFatalErrorThatNamesTheGpa) {
  UNDERFOOT_NEEDS_KVM();
  // The guest's tables lead its data to gpas where there is neither memory nor a device.
  const auto vmm = Make({.workload = abi::Workload::kStamp});
  ASSERT_NE(vmm, nullptr);
  constexpr uint64_t kBeyond = uint64_t{1} << 30;
  constexpr uint64_t kPresentWritableUserLarge = 0xe7;
  const Gpa moved = vmm->slot(MinimalVmm::kPrecious).gpa;
  for (uint64_t page = 0; page < 8; ++page) {
    vmm->WriteWord(kDirectory + (moved.value / kLargePage + page) * sizeof(uint64_t),
                   kBeyond | kPresentWritableUserLarge);
  }

  ASSERT_TRUE(vmm->Start().ok());
  const absl::Status joined = vmm->Join();

  ASSERT_FALSE(joined.ok());
  EXPECT_NE(joined.message().find("nobody answers gpa 0x4"), std::string::npos) << joined;
}

}  // namespace
}  // namespace underfoot::testing
