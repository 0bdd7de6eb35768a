// When a removal that userfaultfd reported is over: by the kernel's record of it, once mmap_lock
// has been free.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>

#include "tests/memory/fake_records.h"
#include "tests/memory/memory_test.h"
#include "vmm/evidence/mmap_barrier.h"
#include "vmm/kvm/kvm.h"
#include "vmm/sources/kernel/kvm_tracepoints.h"
#include "vmm/sources/kernel/task_names.h"

namespace underfoot::testing {
namespace {

// A removal completes by evidence, or not at all while the test runs.
class RemovalEvidenceTest : public MemoryTest {
 protected:
  void SetUp() override {
    Create(absl::Hours(1));
    if (side_ == nullptr) return;
    StartMonitor();
  }
  void TearDown() override {
    if (kernel_.has_value()) kernel_->Stop();
    MemoryTest::TearDown();
    if (side_ != nullptr) side_->monitor.Stop();
    kernel_.reset();
  }

  void Listen(KernelNotifier::Open open) {
    const auto wait = [this] {
      settles_while_waited_ = side().removals.Pending(removed_);
      ++waits_;
      barrier_.Wait();
    };
    kernel_.emplace(mmu(), side().own_changes, side().memory->hvas(), std::move(open),
                    KernelNotifierOptions{.removal_records = &side().ram->removal_records(),
                                          .removals = &side().removals,
                                          .wait_for_mmap_lock = wait});
    ASSERT_TRUE(kernel_->Start().ok());
    const absl::Status open_now = kernel_->WaitUntilOpen();
    ASSERT_TRUE(open_now.ok()) << open_now;
  }

  void Remove(HvaRange range) {
    removed_ = range;
    ASSERT_EQ(ForeignMadvise(range, MADV_DONTNEED), 0);
    // The event is read before the call goes on, and taken soon after.
    side().monitor.WaitForBatch();
    ASSERT_TRUE(side().removals.Explains(range));
  }
  bool SettlesAfter(HvaRange told, int32_t tid = kForeignTid, int64_t time_ns = MonotonicNs()) {
    records_.Add(told, tid, time_ns);
    EXPECT_TRUE(kernel_->Drain());
    return side().removals.Pending(removed_);
  }

  FakeRecords records_;
  MmapBarrier barrier_;
  std::optional<KernelNotifier> kernel_;
  HvaRange removed_ = {};
  std::atomic<bool> settles_while_waited_{false};
  std::atomic<int> waits_{0};
};

TEST_P(RemovalEvidenceTest, TheRecordAndThenTheLockEndIt) {
  Listen(records_.Opener());
  Remove(side().Pages(4, 4));
  EXPECT_FALSE(SettlesAfter(side().Pages(4, 4)));
  EXPECT_EQ(waits_, 1);
  EXPECT_TRUE(settles_while_waited_) << "it settled before mmap_lock was free";
  EXPECT_EQ(side().removals.passed(), 1u);
}

TEST_P(RemovalEvidenceTest, ARecordOfOtherPagesOrOfEarlierIsNone) {
  Listen(records_.Opener());
  const int64_t before = MonotonicNs();
  Remove(side().Pages(4, 4));
  EXPECT_TRUE(SettlesAfter(side().Pages(4, 4), kForeignTid, before));
  EXPECT_TRUE(SettlesAfter(side().Pages(4, 2)));
  EXPECT_TRUE(SettlesAfter(side().Pages(6, 4)));
  EXPECT_EQ(waits_, 0);
}

// The notifier may look between the read that lets the zap go on and the monitor's report of it.
TEST_P(RemovalEvidenceTest, ARecordThatWasReadBeforeTheRemovalWasKnownProvesItToo) {
  Listen(records_.Opener());
  removed_ = side().Pages(4, 4);
  constexpr int64_t kRead = 1'000'000;
  side().removals.Add(removed_, kRead);
  EXPECT_TRUE(SettlesAfter(removed_, kForeignTid, kRead - 1));
  EXPECT_TRUE(SettlesAfter(removed_, kForeignTid, kRead + 1));
  side().ram->removal_records().Reported(removed_, kRead);
  EXPECT_TRUE(kernel_->Drain());
  EXPECT_FALSE(side().removals.Pending(removed_));
  EXPECT_EQ(waits_, 1);
}

TEST_P(RemovalEvidenceTest, ARecordByTheKernelsOwnThreadIsNone) {
  std::optional<int32_t> kernel_thread;
  TaskNames names;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      continue;
    }
    const int32_t tid = std::stoi(name);
    if (names.Find(tid, 1).cause == HostCause::kSwapOut) kernel_thread = tid;
  }
  if (!kernel_thread.has_value()) UNDERFOOT_SKIP("kswapd is not to be seen in this PID namespace");
  Listen(records_.Opener());
  Remove(side().Pages(4, 1));
  EXPECT_TRUE(SettlesAfter(side().Pages(4, 1), *kernel_thread));
  EXPECT_EQ(waits_, 0);
}

TEST_P(RemovalEvidenceTest, OneRecordEndsOneOfTwoRemovals) {
  Listen(records_.Opener());
  Remove(side().Pages(4, 4));
  Remove(side().Pages(4, 4));
  EXPECT_TRUE(SettlesAfter(side().Pages(4, 4)));
  EXPECT_FALSE(SettlesAfter(side().Pages(4, 4)));
}

// The real record, of a KVM in this process.
TEST_P(RemovalEvidenceTest, TheKernelsOwnRecordIsIt) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) UNDERFOOT_SKIP(std::string(kvm.status().message()));
  const absl::StatusOr<Vm> vm = kvm->CreateVm();
  ASSERT_TRUE(vm.ok()) << vm.status();
  const HvaRange ram = side().memory->hvas();
  if (const auto source = KvmTracepoints::Open(ram); !source.ok()) {
    // Not UNDERFOOT_SKIP: users that may open /dev/kvm need not have the right to tracepoints.
    GTEST_SKIP() << source.status().message();
  }
  Listen([ram]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
    return KvmTracepoints::Open(ram);
  });
  constexpr uint64_t kPages = 1024;
  for (uint64_t i = 0; i < kPages; ++i) FaultIn(i);
  Remove(side().Pages(0, kPages));
  EXPECT_TRUE(WaitUntil([&] { return !side().removals.Pending(removed_); }));
  EXPECT_EQ(side().removals.passed(), 1u);
  for (uint64_t i = 0; i < kPages; ++i) EXPECT_FALSE(side().EntryOf(i).present) << i;
}

INSTANTIATE_TEST_SUITE_P(Backing, RemovalEvidenceTest, ::testing::Values(Backing::kAnon),
                         BackingOf);

// What MmapBarrier rests on, on the kernel that this runs on: a zap that has begun is over when the
// lock has been had. Some rounds must catch one in the middle.
TEST(MmapBarrierTest, AZapOfRegisteredMemoryThatHasBegunIsOverBehindIt) {
  constexpr uint64_t kPages = 16384;
  constexpr int kCaught = 5;
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone});
  if (!uffd.ok()) UNDERFOOT_SKIP(std::string(uffd.status().message()));
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  ASSERT_TRUE(pagemap.ok()) << pagemap.status();
  void* const base =
      mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(base, MAP_FAILED);
  static_cast<void>(madvise(base, kPages * kPageSize, MADV_NOHUGEPAGE));
  const HvaRange range = PageRangeOf(HvaOf(base), kPages);
  const Hva last = range.end - kPageSize;
  ASSERT_TRUE(uffd->Register(range, Backing::kAnon).ok());
  const MmapBarrier barrier;
  ASSERT_TRUE(barrier.valid());
  int caught = 0;
  const bool seen = WaitUntil([&] {
    for (uint64_t done = 0; done < kPages;) {
      done += uffd->CopyZeroes({range.begin + done * kPageSize, range.end}).pages;
    }
    std::atomic<bool> over{false};
    std::thread remover([&] {
      EXPECT_EQ(ForeignMadvise(range, MADV_DONTNEED), 0);
      over = true;
    });
    while (pagemap->Read(range.begin).present && !over) {
    }
    const bool in_the_middle = pagemap->Read(last).present && !over;
    barrier.Wait();
    EXPECT_FALSE(pagemap->Read(last).present);
    remover.join();
    caught += in_the_middle ? 1 : 0;
    return caught == kCaught || ::testing::Test::HasFailure();
  });
  EXPECT_TRUE(seen) << caught << " zaps were seen in the middle, not " << kCaught;
  munmap(base, kPages * kPageSize);
}

}  // namespace
}  // namespace underfoot::testing
