// Whole machines whose memory is made of huge pages, under churn. The guest and the audit judge.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>

#include "absl/strings/str_format.h"
#include "tests/boot/machine_fixture.h"
#include "tests/support/host_huge_pages.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {
namespace {

class HugeMachineTest
    : public MachineTest,
      public ::testing::WithParamInterface<std::tuple<Backing, HugePages, const char*>> {};

TEST_P(HugeMachineTest, PassesItsGuestsVerdictAndHasBlocks) {
  const auto [backing, huge, churn] = GetParam();
  const ChurnRates rates = MachineOptions("mixed", backing, 2, churn, huge).churn.rates;
  const RunOptions options = MachineOptions("mixed", backing, 2, "off", huge);
  const HostHugePages pages(huge, backing, options.memory_bytes);
  if (!pages.why_not().empty()) UNDERFOOT_SKIP(pages.why_not());
  ASSERT_NO_FATAL_FAILURE(Start(options));
  if (machine_ == nullptr) return;
  // Before the churn: a fault brings in one page where a bracket lies over its block, and in a storm one
  // nearly always does.
  EXPECT_TRUE(Becomes([](const Stats& stats) {
    return stats.uffd.blocks > 0 && stats.stage2.leaves_2m > 0;
  })) << "blocks "
      << machine_->GetStats().uffd.blocks;
  MachineControl control(*machine_);
  ASSERT_TRUE(control.PutChurn({.running = true, .seed = {}, .rates = rates}).ok());
  EXPECT_TRUE(Becomes([](const Stats& stats) {
    return TotalOperations(stats.churn.operations) > 200 && stats.guest.pages_checked > 1000 &&
           stats.audit.checks > 0;
  })) << "operations "
      << TotalOperations(machine_->GetStats().churn.operations) << ", pages "
      << machine_->GetStats().guest.pages_checked;
  FinishWell();
  machine_.reset();  // before its pages are given back
}

std::string NameOf(const ::testing::TestParamInfo<HugeMachineTest::ParamType>& info) {
  const auto [backing, huge, churn] = info.param;
  return absl::StrFormat("%s_%s_%s", BackingName(backing), HugePagesName(huge), churn);
}

INSTANTIATE_TEST_SUITE_P(Machines, HugeMachineTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(HugePages::kThp, HugePages::k2M),
                                            ::testing::Values("mixed", "storm")),
                         NameOf);

}  // namespace
}  // namespace underfoot::testing
