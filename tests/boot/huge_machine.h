// Whole machines whose memory is made of huge pages, under churn.

#ifndef UNDERFOOT_TESTS_BOOT_HUGE_MACHINE_H_
#define UNDERFOOT_TESTS_BOOT_HUGE_MACHINE_H_

#include <functional>
#include <string>

#include "tests/boot/machine_fixture.h"
#include "tests/support/host_huge_pages.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {

class HugeMachine : public MachineTest {
 protected:
  using Reached = std::function<bool(const Stats& stats)>;

  // The churn begins when the memory is mapped by large leaves: during a storm a bracket nearly always
  // lies over the block of a fault, which then brings in one page. Ends when `enough` is reached.
  void PassesUnderChurn(RunOptions options, const std::string& churn, const Reached& has_leaves,
                        const Reached& enough) {
    const HostHugePages pages(options.huge_pages, options.backing, options.memory_bytes);
    // Not UNDERFOOT_SKIP for the largest: few hosts have any left.
    if (!pages.why_not().empty() && options.huge_pages == HugePages::k1G) {
      GTEST_SKIP() << pages.why_not();
    }
    if (!pages.why_not().empty()) UNDERFOOT_SKIP(pages.why_not());
    SetChurn(churn, &options);
    const ChurnRates rates = options.churn.rates;
    SetChurn("off", &options);
    ASSERT_NO_FATAL_FAILURE(Start(options));
    if (machine_ == nullptr) return;
    EXPECT_TRUE(Becomes([&](const Stats& stats) {
      return stats.uffd.blocks > 0 && has_leaves(stats);
    })) << "blocks "
        << machine_->GetStats().uffd.blocks;
    MachineControl control(*machine_);
    ASSERT_TRUE(control.PutChurn({.running = true, .seed = {}, .rates = rates}).ok());
    EXPECT_TRUE(Becomes(enough)) << "operations "
                                 << TotalOperations(machine_->GetStats().churn.operations)
                                 << ", pages " << machine_->GetStats().guest.pages_checked;
    FinishWell();
    machine_.reset();  // before its pages are given back
  }
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_HUGE_MACHINE_H_
