#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>

#include "tests/support/minimal_vmm.h"
#include "tests/support/ring_peer.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kWorkloadSeed = 77;

// Everything the guest said and counted, for a failure's message.
std::string Story(MinimalVmm& vmm) {
  std::string story;
  for (const std::string& line : vmm.lines()) story += line + "\n";
  return story;
}

class Workloads : public ::testing::TestWithParam<std::tuple<abi::Workload, unsigned>> {};

TEST_P(Workloads, EndByThemselvesWithAGoodVerdictAndWorkDone) {
  UNDERFOOT_NEEDS_KVM();
  const auto [workload, vcpus] = GetParam();
  auto vmm = MinimalVmm::Create({.populate = true,
                                 .vcpus = vcpus,
                                 .workload = workload,
                                 .seed = kWorkloadSeed,
                                 .max_rounds = 40});
  ASSERT_TRUE(vmm.ok()) << vmm.status();

  ASSERT_TRUE((*vmm)->Start().ok());
  const absl::Status joined = (*vmm)->Join();

  ASSERT_TRUE(joined.ok()) << joined << "\n" << Story(**vmm);
  EXPECT_EQ((*vmm)->platform().exit_device().overall(), abi::Verdict::kGood) << Story(**vmm);
  const abi::Report total = (*vmm)->reports().Total();
  EXPECT_EQ(total.done, vcpus);
  EXPECT_EQ(total.mismatches, 0u);
  EXPECT_EQ(total.rounds, 40u * vcpus);
  EXPECT_EQ((*vmm)->lines().size(), vcpus) << Story(**vmm);
  if (workload != abi::Workload::kShared) {
    EXPECT_GT(total.pages_checked, 1000u);
    EXPECT_GT(total.pages_written, 1000u);
    EXPECT_GT(total.final_checked, 0u);
  }
}

std::string NameOfWorkload(const ::testing::TestParamInfo<Workloads::ParamType>& info) {
  return std::string(Name(std::get<0>(info.param))) + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(
    All, Workloads,
    ::testing::Combine(::testing::Values(abi::Workload::kStamp, abi::Workload::kSmp,
                                         abi::Workload::kShared, abi::Workload::kMixed),
                       ::testing::Values(1u, 2u, 4u)),
    NameOfWorkload);

class Rings : public ::testing::TestWithParam<abi::Workload> {};

TEST_P(Rings, CarryEveryRecordInOrderInBothDirections) {
  UNDERFOOT_NEEDS_KVM();
  constexpr uint64_t kRecords = 20000;
  auto vmm = MinimalVmm::Create(
      {.populate = true, .vcpus = 2, .workload = GetParam(), .seed = kWorkloadSeed});
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  RingPeer peer((*vmm)->shared_page(), kWorkloadSeed);

  ASSERT_TRUE((*vmm)->Start().ok());
  EXPECT_TRUE(WaitUntil([&] {
    while (peer.Step()) {
    }
    // The other vCPU too: one that is stopped before it has done anything says so, and rightly.
    return peer.answered() >= kRecords && (*vmm)->reports().Read(1).rounds != 0;
  }));
  EXPECT_TRUE(WaitUntil([&] {
    peer.Drain();
    return peer.answered() == peer.produced();
  }));
  (*vmm)->RequestStop();
  const absl::Status joined = (*vmm)->Join();

  ASSERT_TRUE(joined.ok()) << joined << "\n" << Story(**vmm);
  EXPECT_EQ((*vmm)->platform().exit_device().overall(), abi::Verdict::kGood) << Story(**vmm);
  EXPECT_EQ(peer.errors(), 0u);
  const abi::Report report = (*vmm)->reports().Read(0);
  EXPECT_EQ(report.ring_consumed, peer.produced());
  EXPECT_EQ(report.ring_answered, peer.answered());
}

INSTANTIATE_TEST_SUITE_P(Both, Rings,
                         ::testing::Values(abi::Workload::kShared, abi::Workload::kMixed),
                         [](const auto& one) { return std::string(Name(one.param)); });

TEST(WorkingSet, IsCappedAndTheReportShowsTheCap) {
  UNDERFOOT_NEEDS_KVM();
  constexpr uint64_t kPages = 1024;
  auto vmm = MinimalVmm::Create({.populate = true,
                                 .vcpus = 2,
                                 .workload = abi::Workload::kStamp,
                                 .max_rounds = 20,
                                 .max_pages = kPages,
                                 .final_pages = 128});
  ASSERT_TRUE(vmm.ok()) << vmm.status();

  ASSERT_TRUE((*vmm)->Start().ok());
  ASSERT_TRUE((*vmm)->Join().ok());

  const abi::Report total = (*vmm)->reports().Total();
  EXPECT_EQ((*vmm)->platform().exit_device().overall(), abi::Verdict::kGood) << Story(**vmm);
  const uint64_t data_pages =
      ((*vmm)->slot(MinimalVmm::kPrecious).bytes + (*vmm)->slot(MinimalVmm::kDiscardable).bytes) /
      kPageSize;
  EXPECT_EQ(total.pages_owned, kPages);
  EXPECT_EQ(total.pages_left_out, data_pages - kPages);
  EXPECT_LE(total.final_checked, 2u * 128);
  EXPECT_EQ(total.final_checked + total.final_skipped, kPages);
}

TEST(WorkingSet, OfMoreMemoryThanTheGuestHasNotesForIsSpreadOverAllOfIt) {
  UNDERFOOT_NEEDS_KVM();
  constexpr uint64_t kMemory = uint64_t{14} << 30;  // only what is touched is real
  constexpr uint64_t kNotes = (abi::kSystemAreaBytes - abi::kHeapGpa) / sizeof(uint32_t);
  auto vmm = MinimalVmm::Create({.memory_bytes = kMemory,
                                 .workload = abi::Workload::kStamp,
                                 .max_rounds = 8,
                                 .final_pages = 64});
  ASSERT_TRUE(vmm.ok()) << vmm.status();

  ASSERT_TRUE((*vmm)->Start().ok());
  ASSERT_TRUE((*vmm)->Join().ok());

  const abi::Report report = (*vmm)->reports().Read(0);
  EXPECT_EQ(report.verdict, abi::Verdict::kGood) << Story(**vmm);
  EXPECT_LE(report.pages_owned, kNotes);
  EXPECT_GT(report.pages_owned, kNotes * 9 / 10);
  EXPECT_GT(report.pages_left_out, 0u);
}

TEST(MoreVcpusThanChunks, IsNotCalledASuccess) {
  UNDERFOOT_NEEDS_KVM();
  auto vmm = MinimalVmm::Create(
      {.vcpus = 2, .workload = abi::Workload::kStamp, .max_rounds = 2, .max_pages = 1});
  ASSERT_TRUE(vmm.ok()) << vmm.status();

  ASSERT_TRUE((*vmm)->Start().ok());
  ASSERT_TRUE((*vmm)->Join().ok());

  EXPECT_EQ((*vmm)->platform().exit_device().verdict(0), abi::Verdict::kGood);
  EXPECT_EQ((*vmm)->platform().exit_device().verdict(1), abi::Verdict::kNothingChecked);
}

}  // namespace
}  // namespace underfoot::testing
