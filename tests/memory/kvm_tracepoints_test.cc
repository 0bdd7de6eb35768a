// The kernel's own records: a virtual machine without a vCPU or a memslot is enough for the kernel
// to tell KVM of every change of this process's memory.

#include "vmm/memory/kvm_tracepoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/bench/cpus.h"
#include "tests/memory/memory_test.h"
#include "vmm/kvm.h"
#include "vmm/memory/kernel_notifier.h"

namespace underfoot::testing {
namespace {

// Why the kernel tells nothing here; a skip of its own, since a machine with /dev/kvm may lack it.
std::optional<std::string> WhyNoTracepoints() {
  const absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return std::string(kvm.status().message());
  const auto source = KvmTracepoints::Open({Hva{kPageSize}, Hva{2 * kPageSize}});
  if (!source.ok()) return std::string(source.status().message());
  return std::nullopt;
}

class KvmTracepointsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;

  void SetUp() override {
    if (const auto why = WhyNoTracepoints()) GTEST_SKIP() << *why;
    absl::StatusOr<Kvm> kvm = Kvm::Open();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    absl::StatusOr<Vm> vm = kvm->CreateVm();
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_.emplace(*std::move(vm));
    base_ = mmap(nullptr, 2 * kPages * kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(base_, MAP_FAILED);
    ASSERT_EQ(madvise(base_, 2 * kPages * kPageSize, MADV_NOHUGEPAGE), 0);
    Open(KvmTracepoints::Options());
  }
  void TearDown() override {
    if (base_ != MAP_FAILED) munmap(base_, 2 * kPages * kPageSize);
  }
  void Open(const KvmTracepoints::Options& options) {
    source_.reset();
    auto source = KvmTracepoints::Open(Pages(0, kPages), options);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
  }

  HvaRange Pages(uint64_t first, uint64_t count = 1) const {
    return PageRangeOf(HvaOf(base_) + first * kPageSize, count);
  }
  static void Discard(HvaRange range) {
    ASSERT_EQ(madvise(PointerOf(range.begin), range.size(), MADV_DONTNEED), 0);
  }
  std::vector<KernelRecord> Unmaps(KernelBatch& batch) {
    source_->Read(batch);
    std::vector<KernelRecord> unmaps;
    for (const KernelRecord& record : batch.records) {
      if (record.kind == KernelRecord::Kind::kUnmap) unmaps.push_back(record);
    }
    return unmaps;
  }

  std::optional<Vm> vm_;
  void* base_ = MAP_FAILED;
  std::unique_ptr<KvmTracepoints> source_;
};

TEST_F(KvmTracepointsTest, AnUnmapIsThereWithRangeThreadAndTimeWhenTheCallReturns) {
  const int64_t before = MonotonicNs();
  Discard(Pages(3, 2));
  const int64_t after = MonotonicNs();
  KernelBatch batch;
  const std::vector<KernelRecord> unmaps = Unmaps(batch);
  ASSERT_EQ(unmaps.size(), 1u);
  EXPECT_EQ(unmaps[0].range, Pages(3, 2));
  EXPECT_EQ(unmaps[0].tid, gettid());
  EXPECT_GE(unmaps[0].time_ns, before);
  EXPECT_LE(unmaps[0].time_ns, after);
}

TEST_F(KvmTracepointsTest, WhatIsBesideTheRangeIsNotTold) {
  Discard(Pages(kPages, 2));
  Discard(Pages(kPages - 1, 2));
  KernelBatch batch;
  const std::vector<KernelRecord> unmaps = Unmaps(batch);
  ASSERT_EQ(unmaps.size(), 1u);
  EXPECT_EQ(unmaps[0].range, Pages(kPages - 1, 2)) << "as told, beyond the range";
}

TEST_F(KvmTracepointsTest, RecordsOfAllThreadsAndCpusAreInTheOrderOfTheirTimes) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) Discard(Pages(static_cast<uint64_t>(i) % kPages));
    });
  }
  for (std::thread& thread : threads) thread.join();
  KernelBatch batch;
  const std::vector<KernelRecord> unmaps = Unmaps(batch);
  ASSERT_EQ(unmaps.size(), static_cast<size_t>(kThreads * kEach));
  for (size_t i = 1; i < unmaps.size(); ++i) EXPECT_GE(unmaps[i].time_ns, unmaps[i - 1].time_ns);
  EXPECT_EQ(batch.lost, 0u);
  EXPECT_FALSE(batch.overrun);
}

// A CPU says with its next record what was lost in its ring: on one CPU, all of it is said.
TEST_F(KvmTracepointsTest, AFullRingIsNoticedAndTheLossIsCounted) {
  const bench::Pinned pinned(sched_getcpu());
  Open({.unmap_pages = 1, .age_pages = 1, .watermark_bytes = 4096});
  constexpr uint64_t kMany = 2000;
  for (uint64_t i = 0; i < kMany; ++i) Discard(Pages(i % kPages));
  KernelBatch full;
  const uint64_t read = Unmaps(full).size();
  EXPECT_TRUE(full.overrun) << "before the kernel says so";
  EXPECT_LT(read, kMany);
  KernelBatch after;
  Discard(Pages(0));
  source_->Read(after);
  EXPECT_EQ(after.lost + read, kMany);
}

TEST_F(KvmTracepointsTest, AnotherNameOfTheEventsDirectoryIsAnError) {
  const auto source = KvmTracepoints::Open(Pages(0), {.tracefs = {"/nonexistent"}});
  EXPECT_FALSE(source.ok());
}

// Through the notifier, as a machine has it. Paced by events, so that no clock decides.
class KernelSourceTest : public MemoryTest {
 protected:
  void SetUp() override {
    if (const auto why = WhyNoTracepoints()) GTEST_SKIP() << *why;
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    absl::StatusOr<Kvm> kvm = Kvm::Open();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    absl::StatusOr<Vm> vm = kvm->CreateVm();
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_.emplace(*std::move(vm));
    kernel_.emplace(mmu(), log_, side().memory->hvas(),
                    [this]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
                      return KvmTracepoints::Open(side().memory->hvas());
                    });
    side().source.Announce(kernel_->own_changes());
    StartMonitor();
    ASSERT_TRUE(kernel_->Start().ok());
    const absl::Status open = kernel_->WaitUntilOpen();
    ASSERT_TRUE(open.ok()) << open;
  }
  void TearDown() override {
    if (kernel_.has_value()) kernel_->Stop();
    MemoryTest::TearDown();
    if (side_ != nullptr) side_->monitor.Stop();
    kernel_.reset();
  }

  EventLog log_;
  std::optional<Vm> vm_;
  std::optional<KernelNotifier> kernel_;
};

TEST_P(KernelSourceTest, TwentyThousandChangesAreAllToldAndNoneIsLost) {
  constexpr uint64_t kChanges = 20000;
  constexpr uint64_t kAtOnce = 500;
  for (uint64_t i = 0; i < kChanges; ++i) {
    if (i % kAtOnce == 0) {
      ASSERT_TRUE(kernel_->Drain());
    }
    // No event of userfaultfd, which would pace it: only the kernel tells of this one.
    InvalidationScope hook(mmu().notifier(), {side().Pages(i % 64), InvalidationKind::kUnmap});
    ASSERT_EQ(mprotect(PointerOf(side().PageAt(i % 64)), kPageSize,
                       i / 64 % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE),
              0);
  }
  ASSERT_TRUE(kernel_->Drain());
  const KernelStats stats = kernel_->Stats();
  EXPECT_EQ(stats.lost, 0u);
  EXPECT_GE(stats.unmaps, kChanges);
}

TEST_P(KernelSourceTest, HooksAndWriteFaultsAreKnownAndNothingIsForeign) {
  for (uint64_t i = 0; i < 50; ++i) side().Store(i, i);
  ASSERT_TRUE(side().hooks.WriteProtect(side().Pages(0, 50)).ok());
  for (uint64_t i = 0; i < 50; ++i) side().Store(i, i + 1);  // the protection is lifted
  ASSERT_TRUE(side().hooks.Madvise(side().Pages(0, 50), MADV_DONTNEED).ok());
  ASSERT_TRUE(kernel_->Drain());
  const KernelStats stats = kernel_->Stats();
  EXPECT_GE(stats.known, 52u);
  EXPECT_EQ(stats.foreign, 0u);
}

TEST_P(KernelSourceTest, AProtectionByARawCallIsForeignAndDropsTheLeaf) {
  FaultIn(3);
  ASSERT_EQ(mprotect(PointerOf(side().PageAt(3)), kPageSize, PROT_READ), 0);
  ASSERT_EQ(mprotect(PointerOf(side().PageAt(3)), kPageSize, PROT_READ | PROT_WRITE), 0);
  ASSERT_TRUE(kernel_->Drain());
  EXPECT_FALSE(side().LeafOf(3).has_value());
  EXPECT_GE(kernel_->Stats().foreign, 1u);
  EXPECT_GE(kernel_->Stats().invalidated, 1u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(KernelSourceTest);

}  // namespace
}  // namespace underfoot::testing
