// Whole machines whose memory is made of pages of 1 GiB. A host with fragmented memory cannot reserve
// them. That is an ordinary skip, also in CI, so these tests do not have the label `boot`.

#include <gtest/gtest.h>

#include <string>

#include "tests/boot/machine_fixture.h"
#include "tests/support/host_huge_pages.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {
namespace {

class GiantMachineTest : public MachineTest, public ::testing::WithParamInterface<Backing> {};

TEST_P(GiantMachineTest, PassesItsGuestsVerdictAndHasLeavesOf1GiB) {
  RunOptions options = MachineOptions("stamp", GetParam(), 2, "off", HugePages::k1G);
  options.memory_bytes = 4 * kGiantBytes;
  const HostHugePages pages(options.huge_pages, GetParam(), options.memory_bytes);
  if (!pages.why_not().empty()) GTEST_SKIP() << pages.why_not();
  SetChurn("mixed:100/s", &options);
  const ChurnRates rates = options.churn.rates;
  SetChurn("off", &options);
  ASSERT_NO_FATAL_FAILURE(Start(options));
  if (machine_ == nullptr) return;
  EXPECT_TRUE(Becomes([](const Stats& stats) {
    return stats.uffd.blocks > 0 && stats.stage2.leaves_1g > 0;
  })) << "leaves of 1 GiB "
      << machine_->GetStats().stage2.leaves_1g;
  MachineControl control(*machine_);
  ASSERT_TRUE(control.PutChurn({.running = true, .seed = {}, .rates = rates}).ok());
  EXPECT_TRUE(Becomes([](const Stats& stats) {
    return TotalOperations(stats.churn.operations) > 30 && stats.audit.checks > 0;
  })) << "operations "
      << TotalOperations(machine_->GetStats().churn.operations);
  FinishWell();
  machine_.reset();  // before its pages are given back
}

INSTANTIATE_TEST_SUITE_P(Machines, GiantMachineTest,
                         ::testing::Values(Backing::kAnon, Backing::kMemfd),
                         [](const auto& backing) {
                           return std::string(BackingName(backing.param));
                         });

}  // namespace
}  // namespace underfoot::testing
