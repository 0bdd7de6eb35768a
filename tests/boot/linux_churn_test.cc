// Churn of a Linux guest's memory: what takes memory away keeps the vCPUs outside until it is back.
// No guest runs here; ./dev check-linux has one.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/boot/churned_memory.h"
#include "vmm/machine/machine.h"

namespace underfoot::testing {
namespace {

class LinuxChurnTest : public ::testing::Test, protected ChurnedMemory {
 protected:
  void SetUp() override {
    CreateMemory(
        {.use = RamUse::kLinux}, MemoryAway::kVcpusOut,
        [this](const std::function<absl::Status()>& change) { return WithVcpusOut(change); });
  }

  absl::Status WithVcpusOut(const std::function<absl::Status()>& change) {
    if (!gate_answers_.ok()) return gate_answers_;
    ++gate_passed_;
    const uint32_t epoch = ram_->hooks().protection_epoch();
    absl::Status changed = change();
    protections_ += ram_->hooks().protection_epoch() - epoch;
    EXPECT_TRUE(AllSlotsAreThere()) << "the vCPUs go back in while a memslot is away";
    return changed;
  }
  bool AllSlotsAreThere() const {
    for (const RamSlot& slot : ram_->memory().slots()) {
      if (!ram_->mmu().memslots().Find(GfnOf(slot.gpa)).has_value()) return false;
    }
    return true;
  }

  absl::Status gate_answers_;  // an error: what is to happen behind the gate does not
  int gate_passed_ = 0;
  uint32_t protections_ = 0;  // made and lifted, while the vCPUs were outside
};

TEST_F(LinuxChurnTest, AMemslotIsBackBeforeTheVcpusAre) {
  for (uint64_t random = 0; random < 8; ++random) {  // deleted and moved, by turns
    const absl::StatusOr<ChurnResult> done = operations_->Run(ChurnKind::kMemslot, random);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(gate_passed_, static_cast<int>(random) + 1);
  }
  EXPECT_TRUE(AllSlotsAreThere());
}

TEST_F(LinuxChurnTest, AProtectionIsLiftedBeforeTheVcpusAreBack) {
  const uint32_t before = ram_->hooks().protection_epoch();
  const absl::StatusOr<ChurnResult> done = operations_->Run(ChurnKind::kProtect, 1);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(gate_passed_, 1);
  EXPECT_GT(protections_, 0u);
  EXPECT_EQ(ram_->hooks().protection_epoch() - before, protections_);
}

TEST_F(LinuxChurnTest, AMappingIsBackBeforeTheVcpusAre) {
  const uint32_t before = ram_->hooks().protection_epoch();
  const absl::StatusOr<ChurnResult> done = operations_->Run(ChurnKind::kRemap, 1);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(gate_passed_, 1);
  EXPECT_EQ(ram_->hooks().protection_epoch() - before, protections_);
}

TEST_F(LinuxChurnTest, ASplitProtectsItsBlockWhileTheVcpusAreOutside) {
  const absl::StatusOr<ChurnResult> done = operations_->Run(ChurnKind::kSplit, 1);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(gate_passed_, 1);
}

TEST_F(LinuxChurnTest, WhatTakesNothingAwayNeedsNoVcpuOutside) {
  for (const ChurnKind kind : {ChurnKind::kCold, ChurnKind::kWp}) {
    const absl::StatusOr<ChurnResult> done = operations_->Run(kind, 1);
    ASSERT_TRUE(done.ok()) << done.status();
  }
  EXPECT_EQ(gate_passed_, 0);
}

// Its error is reported. What it has changed is not known, so no source can be said to have missed it.
TEST_F(LinuxChurnTest, AnOperationThatFailsAccusesNoSource) {
  coverage_.SetSource(EventSource::kHook, true);
  gate_answers_ = absl::ResourceExhaustedError("a test");
  const absl::StatusOr<ChurnResult> failed = operations_->Run(ChurnKind::kProtect, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(failed.status())) << failed.status();
  for (const CoverageRow& row : coverage_.Matrix().rows) {
    if (row.kind == ChurnKind::kProtect) {
      EXPECT_EQ(row.operations, 0u);
    }
    EXPECT_NE(row.result, CoverageResult::kMissed) << ChurnKindName(row.kind);
  }
}

// kvm_pvm cannot run a stock kernel, and says so before anything else is tried.
TEST(LinuxMachineTest, AKvmThatCannotRunAStockKernelSaysSoAtOnce) {
  EXPECT_NE(WhyNoLinuxOn("kvm_pvm").find("VT-x or SVM"), std::string::npos);
  EXPECT_EQ(WhyNoLinuxOn("kvm_amd"), "");
  EXPECT_EQ(WhyNoLinuxOn("kvm_intel"), "");
  EXPECT_EQ(WhyNoLinuxOn("unknown"), "");
}

// The checks of the command line are those of the class, too.
TEST(LinuxMachineTest, AMachineIsRefusedWithWhatALinuxGuestCannotBear) {
  RunOptions options;
  options.guest = "/nowhere";
  options.linux_guest = LinuxOptions{};
  const auto error = [&] {
    return std::string(
        Machine::Create(options, [](unsigned, std::string_view) {}).status().message());
  };
  options.churn.rates = {{ChurnKind::kDiscard, 1}};
  EXPECT_NE(error().find("churn kind discard erases content"), std::string::npos) << error();
  options.churn.rates = {};
  options.dirty_log_period = std::chrono::seconds(1);
  EXPECT_NE(error().find("--dirty-log"), std::string::npos) << error();
  options.dirty_log_period = {};
  options.memory_bytes = uint64_t{4} << 30;
  EXPECT_NE(error().find("from 64 MiB"), std::string::npos) << error();
}

}  // namespace
}  // namespace underfoot::testing
