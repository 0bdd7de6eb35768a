#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"

namespace underfoot::testing {
namespace {

class Hello : public ::testing::TestWithParam<unsigned> {};

TEST_P(Hello, EveryVcpuReachesRing3PrintsItsLineAndEndsWell) {
  UNDERFOOT_NEEDS_KVM();
  const unsigned vcpus = GetParam();
  auto vmm = MinimalVmm::Create({.vcpus = vcpus, .workload = abi::Workload::kHello});
  ASSERT_TRUE(vmm.ok()) << vmm.status();

  ASSERT_TRUE((*vmm)->Start().ok());
  const absl::Status joined = (*vmm)->Join();

  ASSERT_TRUE(joined.ok()) << joined;
  EXPECT_EQ((*vmm)->platform().exit_device().overall(), abi::Verdict::kGood);
  const std::vector<std::string> lines = (*vmm)->lines();
  ASSERT_EQ(lines.size(), vcpus);
  for (unsigned vcpu = 0; vcpu < vcpus; ++vcpu) {
    EXPECT_THAT(lines, ::testing::Contains("hello from vcpu " + std::to_string(vcpu) + " of " +
                                           std::to_string(vcpus) + ", ring 3"));
  }
}

INSTANTIATE_TEST_SUITE_P(Vcpus, Hello, ::testing::Values(1u, 2u, 4u, 32u));

}  // namespace
}  // namespace underfoot::testing
