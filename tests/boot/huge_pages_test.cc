// Whole machines whose memory is made of huge pages, under churn. The guest and the audit judge.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "tests/boot/churned_memory.h"
#include "tests/boot/huge_machine.h"

namespace underfoot::testing {
namespace {

class HugeMachineTest
    : public HugeMachine,
      public ::testing::WithParamInterface<std::tuple<Backing, HugePages, const char*>> {};

TEST_P(HugeMachineTest, PassesItsGuestsVerdictAndHasBlocks) {
  const auto [backing, huge, churn] = GetParam();
  PassesUnderChurn(
      MachineOptions("mixed", backing, 2, "off", huge), churn,
      [](const Stats& stats) { return stats.stage2.leaves_2m > 0; },
      [](const Stats& stats) {
        return TotalOperations(stats.churn.operations) > 200 && stats.guest.pages_checked > 1000 &&
               stats.audit.checks > 0;
      });
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

class HugeChurnTest : public ::testing::TestWithParam<Backing>, protected ChurnedMemory {
 protected:
  // Skipped if the host has no such pages.
  void Create(HugePages huge) {
    UNDERFOOT_NEEDS_KVM();
    pages_ = std::make_unique<HostHugePages>(huge, GetParam(), kBytes);
    if (!pages_->why_not().empty()) UNDERFOOT_SKIP(pages_->why_not());
    CreateMemory({.backing = GetParam(), .huge_pages = huge, .fault_around = 64},
                 MemoryAway::kGuestRuns, GuestMemory::AtOnce);
  }
  ChurnResult Run(ChurnKind kind, uint64_t random) {
    const absl::StatusOr<ChurnResult> done = operations_->Run(kind, random);
    EXPECT_TRUE(done.ok()) << done.status();
    return done.ok() ? *done : ChurnResult{};
  }
  void TearDown() override {
    operations_.reset();
    ram_.reset();  // before its pages are given back
  }

  std::unique_ptr<HostHugePages> pages_;
};

// A part splits the huge page. Only an operation on all of it shows what the host does to one.
TEST_P(HugeChurnTest, SomeOperationsOnTransparentHugePagesTakeAWholeBlock) {
  Create(HugePages::kThp);
  if (IsSkipped()) return;
  for (const ChurnKind kind : {ChurnKind::kDiscard, ChurnKind::kWp, ChurnKind::kCold}) {
    int blocks = 0;
    int parts = 0;
    for (uint64_t random = 0; random < 16; ++random) {
      const ChurnResult result = Run(kind, random);
      const bool block = result.bytes == kBlockBytes && result.gpa.value % kBlockBytes == 0;
      ++(block ? blocks : parts);
    }
    EXPECT_GT(blocks, 0) << ChurnKindName(kind);
    EXPECT_GT(parts, blocks) << ChurnKindName(kind);
  }
}

TEST_P(HugeChurnTest, OnSmallPagesNoOperationTakesAWholeBlock) {
  Create(HugePages::kOff);
  if (IsSkipped()) return;
  for (uint64_t random = 0; random < 16; ++random) {
    EXPECT_LT(Run(ChurnKind::kWp, random).bytes, kBlockBytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Backings, HugeChurnTest,
                         ::testing::Values(Backing::kAnon, Backing::kMemfd),
                         [](const auto& backing) {
                           return std::string(BackingName(backing.param));
                         });

// khugepaged makes huge pages of a running guest's memory, as fast as it can. Churn breaks them again.
class KhugepagedTest : public MachineTest, public ::testing::WithParamInterface<Backing> {
 protected:
  void SetUp() override {
    MachineTest::SetUp();
    if (IsSkipped()) return;
    UNDERFOOT_CHANGES_THE_HOST();
    pages_ = std::make_unique<HostHugePages>(HugePages::kThp, GetParam(), 0);
    if (!pages_->why_not().empty()) UNDERFOOT_SKIP(pages_->why_not());
    if (pages_->changes() == nullptr) UNDERFOOT_SKIP("this user may not change the host");
    for (const auto& [knob, value] :
         {std::pair("scan_sleep_millisecs", "10"), std::pair("alloc_sleep_millisecs", "10"),
          std::pair("pages_to_scan", "65536")}) {
      const absl::Status set =
          pages_->changes()->SetKnob(HugePagePlaces().thp + "/khugepaged/" + knob, value);
      if (!set.ok()) UNDERFOOT_SKIP(std::string(set.message()));
    }
  }
  void TearDown() override {
    MachineTest::TearDown();
    pages_.reset();
  }

  std::unique_ptr<HostHugePages> pages_;
};

TEST_P(KhugepagedTest, TheGuestSeesNothingOfHugePagesThatTheKernelMakesByItself) {
  ASSERT_NO_FATAL_FAILURE(
      Start(MachineOptions("mixed", GetParam(), 2, "split:50/s,discard:50/s", HugePages::kThp)));
  if (machine_ == nullptr) return;
  ASSERT_TRUE(Becomes(
      [](const Stats& stats) { return stats.kernel.enabled || !stats.kernel.why_not.empty(); }));
  if (const KernelStats kernel = machine_->GetStats().kernel; !kernel.enabled) {
    UNDERFOOT_SKIP("only the kernel's records show a collapse: " + kernel.why_not);
  }
  const auto collapses = [](const Stats& stats) {
    return stats.kernel.causes[static_cast<size_t>(HostCause::kCollapse)];
  };
  EXPECT_TRUE(Becomes([&](const Stats& stats) {
    return collapses(stats) > 20 && stats.guest.pages_checked > 1000;
  })) << "khugepaged collapsed "
      << collapses(machine_->GetStats());
  FinishWell();
}

INSTANTIATE_TEST_SUITE_P(Backings, KhugepagedTest,
                         ::testing::Values(Backing::kAnon, Backing::kMemfd),
                         [](const auto& backing) {
                           return std::string(BackingName(backing.param));
                         });

}  // namespace
}  // namespace underfoot::testing
