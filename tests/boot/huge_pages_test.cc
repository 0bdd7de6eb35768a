// Whole machines whose memory is made of huge pages, under churn. The guest and the audit judge.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "tests/boot/machine_fixture.h"
#include "tests/support/host_huge_pages.h"
#include "vmm/audit/coverage.h"
#include "vmm/churn/operations.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/kvm/kvm.h"
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

// The memory of a machine with KVM's memslots and no vCPU, and churn on it.
class HugeChurnTest : public ::testing::TestWithParam<Backing> {
 protected:
  void SetUp() override { UNDERFOOT_NEEDS_KVM(); }

  // Skipped if the host has no such pages.
  void Create(HugePages huge) {
    pages_ = std::make_unique<HostHugePages>(huge, GetParam(), kBytes);
    if (!pages_->why_not().empty()) UNDERFOOT_SKIP(pages_->why_not());
    const absl::StatusOr<Kvm> kvm = Kvm::Open();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    absl::StatusOr<Vm> vm = kvm->CreateVm();
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = std::make_unique<Vm>(*std::move(vm));
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram =
        CoherentRam::Create({.bytes = kBytes,
                             .backing = GetParam(),
                             .huge_pages = huge,
                             .fault_around = 64,
                             .event_sink = &coverage_});
    if (absl::IsPermissionDenied(ram.status())) UNDERFOOT_SKIP(std::string(ram.status().message()));
    ASSERT_TRUE(ram.ok()) << ram.status();
    ram_ = *std::move(ram);
    ASSERT_TRUE(ram_->Start().ok());
    for (const RamSlot& slot : ram_->memory().slots()) {
      ASSERT_TRUE(ram_->memory().AddSlot(slot, ram_->mmu(), *vm_).ok());
    }
    operations_ = std::make_unique<ChurnOperations>(
        ram_->memory(), ram_->mmu(), *vm_, ram_->hooks(), ram_->uffd(), coverage_,
        ram_->page_source(), [](const std::function<absl::Status()>& change) { return change(); });
  }
  ChurnResult Run(ChurnKind kind, uint64_t random) {
    const absl::StatusOr<ChurnResult> done = operations_->Run(kind, random);
    EXPECT_TRUE(done.ok()) << done.status();
    return done.ok() ? *done : ChurnResult{};
  }

  static constexpr uint64_t kBytes = uint64_t{64} << 20;

  std::unique_ptr<HostHugePages> pages_;
  Coverage coverage_;  // outlives the RAM, whose events it receives
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<CoherentRam> ram_;
  std::unique_ptr<ChurnOperations> operations_;
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
