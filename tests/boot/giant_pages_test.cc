// Whole machines whose memory is made of pages of 1 GiB. A host with fragmented memory cannot reserve
// them. That is an ordinary skip, also in CI, so these tests do not have the label `boot`.

#include <gtest/gtest.h>

#include <string>

#include "tests/boot/huge_machine.h"

namespace underfoot::testing {
namespace {

class GiantMachineTest : public HugeMachine, public ::testing::WithParamInterface<Backing> {};

TEST_P(GiantMachineTest, PassesItsGuestsVerdictAndHasLeavesOf1GiB) {
  RunOptions options = MachineOptions("stamp", GetParam(), 2, "off", HugePages::k1G);
  options.memory_bytes = 4 * kGiantBytes;
  PassesUnderChurn(
      options, "mixed:100/s", [](const Stats& stats) { return stats.stage2.leaves_1g > 0; },
      [](const Stats& stats) {
        return TotalOperations(stats.churn.operations) > 30 && stats.audit.checks > 0;
      });
}

INSTANTIATE_TEST_SUITE_P(Machines, GiantMachineTest,
                         ::testing::Values(Backing::kAnon, Backing::kMemfd),
                         [](const auto& backing) {
                           return std::string(BackingName(backing.param));
                         });

}  // namespace
}  // namespace underfoot::testing
