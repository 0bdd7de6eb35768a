// The kernel's own records: a virtual machine without a vCPU or a memslot is enough for the kernel
// to report to KVM every change of this process's memory.

#include "vmm/sources/kernel/kvm_tracepoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "mmu/base/ordering.h"
#include "tests/bench/cpus.h"
#include "tests/memory/memory_test.h"
#include "tests/support/skip.h"
#include "tests/support/thread_state.h"
#include "tests/support/wait_until.h"
#include "vmm/kvm/kvm.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/kernel/kernel_notifier.h"

namespace underfoot::testing {
namespace {

// Why the kernel reports nothing here; a skip of its own, since a machine with /dev/kvm may lack
// it.
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
  std::vector<KernelRecord> Unmaps(KernelRecordSource& source, KernelBatch& batch) {
    source.Read(batch);
    std::vector<KernelRecord> unmaps;
    for (const KernelRecord& record : batch.records) {
      if (record.kind == KernelRecord::Kind::kUnmap) unmaps.push_back(record);
    }
    return unmaps;
  }
  // The host, and a process that uses the same addresses, may unmap in the range as well.
  std::vector<KernelRecord> UnmapsBy(const std::set<int32_t>& threads, KernelBatch& batch) {
    std::vector<KernelRecord> unmaps = Unmaps(*source_, batch);
    std::erase_if(unmaps, [&](const auto& unmap) { return threads.count(unmap.tid) == 0; });
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
  const std::vector<KernelRecord> unmaps = UnmapsBy({gettid()}, batch);
  ASSERT_EQ(unmaps.size(), 1u);
  EXPECT_EQ(unmaps[0].range, Pages(3, 2));
  EXPECT_EQ(unmaps[0].tid, gettid());
  EXPECT_GE(unmaps[0].time_ns, before);
  EXPECT_LE(unmaps[0].time_ns, after);
}

TEST_F(KvmTracepointsTest, AChangeBesideTheRangeIsNotReported) {
  Discard(Pages(kPages, 2));
  Discard(Pages(kPages - 1, 2));
  KernelBatch batch;
  const std::vector<KernelRecord> unmaps = UnmapsBy({gettid()}, batch);
  ASSERT_EQ(unmaps.size(), 1u);
  EXPECT_EQ(unmaps[0].range, Pages(kPages - 1, 2)) << "as told, beyond the range";
}

TEST_F(KvmTracepointsTest, RecordsOfAllThreadsAndCpusAreInTheOrderOfTheirTimes) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  std::vector<std::thread> threads;
  std::vector<int32_t> ids(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ids[static_cast<size_t>(t)] = gettid();
      for (int i = 0; i < kEach; ++i) Discard(Pages(static_cast<uint64_t>(i) % kPages));
    });
  }
  for (std::thread& thread : threads) thread.join();
  KernelBatch batch;
  const std::vector<KernelRecord> unmaps = UnmapsBy({ids.begin(), ids.end()}, batch);
  ASSERT_EQ(unmaps.size(), static_cast<size_t>(kThreads * kEach));
  for (size_t i = 1; i < unmaps.size(); ++i) EXPECT_GE(unmaps[i].time_ns, unmaps[i - 1].time_ns);
  EXPECT_EQ(batch.lost, 0u);
  EXPECT_FALSE(batch.overrun);
}

TEST_F(KvmTracepointsTest, ARecordMakesADescriptorReadableOnlyWhileItIsAskedTo) {
  const auto readable = [&](int timeout_ms) {
    std::vector<pollfd> fds;
    for (const int fd : source_->fds()) fds.push_back({fd, POLLIN, 0});
    return poll(fds.data(), fds.size(), timeout_ms) > 0;
  };
  KernelBatch batch;
  ASSERT_TRUE(source_->WakeAtOnce(true));
  Discard(Pages(3));
  EXPECT_TRUE(readable(static_cast<int>(kDeadline.count())));
  EXPECT_EQ(UnmapsBy({gettid()}, batch).size(), 1u) << "it is recorded twice, and read once";
  ASSERT_TRUE(source_->WakeAtOnce(false));
  static_cast<void>(readable(0));  // what the host has done meanwhile
  Discard(Pages(3));
  EXPECT_FALSE(readable(0));
  batch = KernelBatch();
  EXPECT_EQ(UnmapsBy({gettid()}, batch).size(), 1u);
}

// A CPU reports with its next record what was lost in its ring: on one CPU, all of it is reported.
TEST_F(KvmTracepointsTest, AFullRingIsNoticedAndTheLossIsCounted) {
  const bench::Pinned pinned(sched_getcpu());
  const auto large = KvmTracepoints::Open(Pages(0, kPages));
  ASSERT_TRUE(large.ok()) << large.status();
  Open({.unmap_pages = 1, .age_pages = 1, .watermark_bytes = 4096});
  constexpr uint64_t kMany = 2000;
  for (uint64_t i = 0; i < kMany; ++i) Discard(Pages(i % kPages));
  KernelBatch full;
  const uint64_t read = Unmaps(*source_, full).size();
  EXPECT_TRUE(full.overrun) << "before the kernel says so";
  EXPECT_LT(read, kMany);
  Discard(Pages(0));
  const int64_t end = MonotonicNs();
  const auto until_end = [end](const std::vector<KernelRecord>& unmaps) {
    return static_cast<uint64_t>(std::count_if(
        unmaps.begin(), unmaps.end(), [end](const auto& unmap) { return unmap.time_ns <= end; }));
  };
  KernelBatch after;
  const uint64_t rest = until_end(Unmaps(*source_, after));
  EXPECT_GE(rest, 1u);
  // The host may unmap as well: a ring that has lost nothing says how much there was to lose.
  KernelBatch whole;
  const uint64_t all = until_end(Unmaps(**large, whole));
  ASSERT_FALSE(whole.overrun);
  EXPECT_GE(all, kMany + 1);
  EXPECT_EQ(after.lost + read + rest, all);
}

// For a machine where nothing is mounted, as a new one.
TEST_F(KvmTracepointsTest, NoTracefsHasToBeMounted) {
  const auto source = KvmTracepoints::Open(Pages(0), {.mountinfo = "/dev/null"});
  if (absl::IsPermissionDenied(source.status())) GTEST_SKIP() << source.status().message();
  EXPECT_TRUE(source.ok()) << source.status();
}

TEST_F(KvmTracepointsTest, RecordsAreStampedWithTheClockOfThisTimeNamespace) {
  std::string offsets = ::testing::TempDir() + "timens-XXXXXX";
  const UniqueFd file(mkstemp(offsets.data()));
  ASSERT_TRUE(file.valid());
  ASSERT_GT(dprintf(file.get(), "monotonic 1000000 5\nboottime 7 0\n"), 0);
  const auto ahead = KvmTracepoints::Open(Pages(0, kPages), {.timens_offsets = offsets});
  ASSERT_EQ(unlink(offsets.c_str()), 0);
  ASSERT_TRUE(ahead.ok()) << ahead.status();
  // Of the host's clock, wherever this test runs.
  const int64_t before = MonotonicNs() - MonotonicOffsetNs("/proc/self/timens_offsets");
  Discard(Pages(3));
  KernelBatch batch;
  (*ahead)->Read(batch);
  std::erase_if(batch.records, [](const KernelRecord& record) { return record.tid != gettid(); });
  ASSERT_FALSE(batch.records.empty());
  EXPECT_GE(batch.records.front().time_ns, before + int64_t{1'000'000} * 1'000'000'000);
}

TEST(MonotonicOffsetTest, IsTheSumOfSecondsAndNanosecondsOfItsLine) {
  const std::string name = ::testing::TempDir() + "timens-offsets";
  std::ofstream(name) << "monotonic           -3         7\nboottime            9         0\n";
  EXPECT_EQ(MonotonicOffsetNs(name), -2'999'999'993);
  std::ofstream(name, std::ios::trunc) << "boottime 9 0\n";
  EXPECT_EQ(MonotonicOffsetNs(name), 0);
  ASSERT_EQ(unlink(name.c_str()), 0);
  EXPECT_EQ(MonotonicOffsetNs(name), 0) << "a kernel without time namespaces";
}

// Which CPUs are watched. No machine is needed: the tracepoints are there all the same.
class WatchedCpusTest : public ::testing::Test {
 protected:
  static constexpr HvaRange kAnyRange = {Hva{kPageSize}, Hva{2 * kPageSize}};
  // Of the last CPU.
  static inline int failing_cpu = -1;
  static inline int failure = ENODEV;

  static int OpenUnlessFailing(const perf_event_attr& attr, int cpu) {
    if (cpu != failing_cpu) return OpenPerfEvent(attr, cpu);
    errno = failure;
    return -1;
  }
  // Looks when it is asked to, and not by the time.
  void SetUp() override {
    failing_cpu = -1;
    const auto source = KvmTracepoints::Open(kAnyRange);
    if (!source.ok()) GTEST_SKIP() << source.status().message();
    all_ = (*source)->cpus_watched();
    ASSERT_GE(all_, 1u);
    failing_cpu = static_cast<int>(all_) - 1;
    failure = ENODEV;
    if (all_ == 1) GTEST_SKIP() << "a single CPU";
    auto opened = KvmTracepoints::Open(
        kAnyRange, {.open_event = OpenUnlessFailing, .look_period = std::chrono::hours(1)});
    ASSERT_TRUE(opened.ok()) << opened.status();
    source_ = *std::move(opened);
  }
  bool OverrunAfterALook() {
    source_->LookForCpus();
    KernelBatch batch;
    source_->Read(batch);
    return batch.overrun;
  }

  size_t all_ = 0;
  std::unique_ptr<KvmTracepoints> source_;
};

TEST_F(WatchedCpusTest, AreAllThatThisProcessMayRunOn) {
  cpu_set_t mine;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
  EXPECT_GE(all_, static_cast<size_t>(CPU_COUNT(&mine)));
}

TEST_F(WatchedCpusTest, ACpuThatIsOfflineIsNoLoss) {
  EXPECT_EQ(source_->cpus_watched(), all_ - 1);
  EXPECT_FALSE(OverrunAfterALook());
}

TEST_F(WatchedCpusTest, ACpuThatComesLaterIsWatchedAndItsEarlierRecordsAreLost) {
  failing_cpu = -1;
  EXPECT_TRUE(OverrunAfterALook());
  EXPECT_EQ(source_->cpus_watched(), all_);
  EXPECT_FALSE(OverrunAfterALook()) << "once";
}

TEST_F(WatchedCpusTest, ACpuThatCannotBeWatchedIsALossInEachLook) {
  failure = EMFILE;
  EXPECT_TRUE(OverrunAfterALook());
  EXPECT_TRUE(OverrunAfterALook());
  EXPECT_EQ(source_->cpus_watched(), all_ - 1);
  failing_cpu = -1;
  EXPECT_TRUE(OverrunAfterALook());
  EXPECT_FALSE(OverrunAfterALook());
}

TEST_F(WatchedCpusTest, ACpuThatGoesOfflineAndComesBackIsWatchedAgain) {
  UNDERFOOT_CHANGES_THE_HOST();
  const std::string online = "/sys/devices/system/cpu/cpu" + std::to_string(all_ - 1) + "/online";
  failing_cpu = -1;
  EXPECT_TRUE(OverrunAfterALook());
  const auto set = [&](char value) { return !!(std::ofstream(online) << value << std::flush); };
  if (!set('0')) GTEST_SKIP() << "no CPU can be taken offline here: " << online;
  EXPECT_TRUE(WaitUntil([&] { return OverrunAfterALook() || source_->cpus_watched() < all_; }))
      << "its events stand still";
  ASSERT_TRUE(set('1'));
  EXPECT_TRUE(WaitUntil([&] { return OverrunAfterALook(); }));
  EXPECT_EQ(source_->cpus_watched(), all_);
}

// Leaves the records where the kernel has put them for as long as a test wants.
class HeldRecords final : public KernelRecordSource {
 public:
  HeldRecords(std::unique_ptr<KernelRecordSource> all, const std::atomic<bool>& held)
      : all_(std::move(all)), held_(held) {}
  void Read(KernelBatch& batch) override {
    if (!held_.load(kAcquire)) all_->Read(batch);
  }
  const std::vector<int>& fds() const override { return all_->fds(); }

 private:
  const std::unique_ptr<KernelRecordSource> all_;
  const std::atomic<bool>& held_;
};

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
    kernel_.emplace(
        mmu(), side().own_changes, side().memory->hvas(),
        [this]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
          auto all = KvmTracepoints::Open(side().memory->hvas());
          if (!all.ok()) return std::move(all).status();
          return std::make_unique<HeldRecords>(*std::move(all), held_);
        },
        KernelNotifierOptions{.sink = &log_});
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
  std::atomic<bool> held_{false};
  std::optional<Vm> vm_;
  std::optional<KernelNotifier> kernel_;
};

TEST_P(KernelSourceTest, TwentyThousandChangesAreAllReportedAndNoneIsLost) {
  constexpr uint64_t kChanges = 20000;
  constexpr uint64_t kAtOnce = 500;
  for (uint64_t i = 0; i < kChanges; ++i) {
    if (i % kAtOnce == 0) {
      ASSERT_TRUE(kernel_->Drain());
    }
    // No event of userfaultfd, which would pace it: only the kernel reports this one.
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

// Nothing of this process, that is: the host may compact, reclaim or merge. A thread that stands
// right behind its change has not said yet that it is over: then a record counts as foreign.
TEST_P(KernelSourceTest, HooksAndWriteFaultsAreKnownAndNothingIsForeign) {
  held_.store(true, kRelease);
  for (uint64_t i = 0; i < 50; ++i) side().Store(i, i);
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(0, 50)).ok());
  for (uint64_t i = 0; i < 50; ++i) side().Store(i, i + 1);  // the protection is lifted
  ASSERT_TRUE(hooked::Madvise(side().Pages(0, 50), MADV_DONTNEED).ok());
  ASSERT_TRUE(WaitUntil(OtherThreadsSleep));
  held_.store(false, kRelease);
  ASSERT_TRUE(kernel_->Drain());
  EXPECT_GE(kernel_->Stats().known, 52u);
  uint64_t seen = 0;
  for (const NumberedEvent& numbered : log_.Since(0, EventLog::kCapacity)) {
    const HostEvent& event = numbered.event;
    if (event.change != HostChange::kUnmap || event.cause != HostCause::kThisProcess) continue;
    EXPECT_TRUE(event.known) << event.tid << " at " << event.range.begin.value;
    ++seen;
  }
  EXPECT_GE(seen, 52u);
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
