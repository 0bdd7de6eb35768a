// The late source: what it recognizes, what it drops, and what it does about a loss. Its records
// are made by hand; kvm_tracepoints_test.cc has the kernel's.

#include "vmm/sources/kernel/kernel_notifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "tests/memory/fake_records.h"
#include "tests/memory/memory_test.h"
#include "tests/support/wait_until.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

class KernelNotifierTest : public MemoryTest {
 protected:
  static constexpr uint64_t kLeaves = 16;

  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    StartMonitor();
    for (uint64_t i = 0; i < kLeaves; ++i) FaultIn(i);
    kernel_.emplace(mmu(), side().own_changes, side().memory->hvas(), records_.Opener(),
                    KernelNotifierOptions{.removal_records = &side().ram->removal_records(),
                                          .foreign_changes = &side().ram->foreign_changes(),
                                          .sink = &log_,
                                          .quiet_period_ms = quiet_period_ms_,
                                          .open_sink = [this] { ++opened_; }});
    const absl::Status started = kernel_->Start();
    ASSERT_TRUE(started.ok()) << started;
    const absl::Status open = kernel_->WaitUntilOpen();
    ASSERT_TRUE(open.ok()) << open;
  }
  void TearDown() override {
    if (kernel_.has_value()) kernel_->Stop();
    MemoryTest::TearDown();
    kernel_.reset();
  }

  void Drain() { ASSERT_TRUE(kernel_->Drain()); }
  uint64_t Leaves() {
    uint64_t leaves = 0;
    for (uint64_t i = 0; i < kLeaves; ++i) leaves += side().LeafOf(i).has_value() ? 1 : 0;
    return leaves;
  }
  HostEvent LastEvent() const {
    const std::vector<NumberedEvent> events = log_.Since(0, EventLog::kCapacity);
    return events.empty() ? HostEvent() : events.back().event;
  }

  EventLog log_;
  FakeRecords records_;
  std::optional<KernelNotifier> kernel_;
  std::atomic<int> opened_{0};
  int quiet_period_ms_ = KernelNotifierOptions().quiet_period_ms;
};

// While records wake the notifier, it does not look by itself.
class QuietKernelNotifierTest : public KernelNotifierTest {
 protected:
  QuietKernelNotifierTest() { quiet_period_ms_ = 3'600'000; }
};

TEST_P(KernelNotifierTest, AForeignRecordDropsItsTranslationsAndNoOther) {
  records_.Add(side().Pages(3, 2));
  Drain();
  EXPECT_FALSE(side().LeafOf(3).has_value());
  EXPECT_FALSE(side().LeafOf(4).has_value());
  EXPECT_EQ(Leaves(), kLeaves - 2);
  const KernelStats stats = kernel_->Stats();
  EXPECT_EQ(stats.unmaps, 1u);
  EXPECT_EQ(stats.foreign, 1u);
  EXPECT_EQ(stats.known, 0u);
  EXPECT_EQ(stats.invalidated, 1u);
  EXPECT_EQ(stats.lag_us.count, 1u);
  const HostEvent event = LastEvent();
  EXPECT_EQ(event.source, EventSource::kKernel);
  EXPECT_EQ(event.change, HostChange::kUnmap);
  EXPECT_EQ(event.range, side().Pages(3, 2));
  EXPECT_EQ(event.tid, kForeignTid);
  EXPECT_TRUE(event.invalidated);
  EXPECT_FALSE(event.known);
  EXPECT_GE(event.taken_ns, event.happened_ns);
}

TEST_P(KernelNotifierTest, OnlyAForeignChangeIsNotedForTheAuditor) {
  const ForeignChanges& noted = side().ram->foreign_changes();
  int64_t inside = 0;
  {
    InvalidationScope hook(mmu().notifier(), {side().Pages(3), InvalidationKind::kUnmap});
    inside = MonotonicNs();
  }
  records_.Add(side().Pages(3), gettid(), inside);
  records_.Add(side().Pages(4), kForeignTid, MonotonicNs(), KernelRecord::Kind::kAge);
  Drain();
  EXPECT_FALSE(noted.Lately(side().Pages(0, kLeaves)));
  records_.Add(side().Pages(5));
  Drain();
  EXPECT_TRUE(noted.Lately(side().Pages(5)));
  EXPECT_FALSE(noted.Lately(side().Pages(6)));
}

TEST_P(KernelNotifierTest, ItReportsThatItIsOpenBeforeAnyThreadWaits) { EXPECT_EQ(opened_, 1); }

TEST_P(KernelNotifierTest, AChangeByAHookIsKnownAndInvalidatedOnce) {
  int64_t inside = 0;
  {
    InvalidationScope hook(mmu().notifier(), {side().Pages(3, 2), InvalidationKind::kUnmap});
    inside = MonotonicNs();
  }
  const uint64_t begins = mmu().Stats().notifier.begins;
  records_.Add(side().Pages(3), gettid(), inside);
  records_.Add(side().Pages(4), gettid(), inside);
  Drain();
  EXPECT_EQ(kernel_->Stats().known, 2u);
  EXPECT_EQ(kernel_->Stats().foreign, 0u);
  EXPECT_EQ(mmu().Stats().notifier.begins, begins);
  EXPECT_TRUE(LastEvent().known);
}

// Notes a time between the Begin and the End of a bracket. Subscribers are called in their order.
class TimeInBracket final : public Subscriber {
 public:
  bool Invalidate(const Invalidation&) override {
    inside_ns_ = MonotonicNs();
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }
  int64_t inside_ns() const { return inside_ns_; }

 private:
  int64_t inside_ns_ = 0;
};

TEST_P(KernelNotifierTest, ARealHookIsAnnouncedFromItsBeginToItsEnd) {
  TimeInBracket in_bracket;
  mmu().notifier().Register(in_bracket);
  ASSERT_TRUE(hooked::Madvise(side().Pages(3), MADV_DONTNEED).ok());
  const int64_t after = MonotonicNs();
  mmu().notifier().Unregister(in_bracket);
  EXPECT_TRUE(side().own_changes.Made(gettid(), side().Pages(3), in_bracket.inside_ns()));
  EXPECT_FALSE(side().own_changes.Made(gettid(), side().Pages(3), after + 1'000'000));
}

// A raw call of the same thread, and one of another thread beside the hook.
TEST_P(KernelNotifierTest, AChangeBesideAHookIsForeign) {
  {
    InvalidationScope hook(mmu().notifier(), {side().Pages(3), InvalidationKind::kUnmap});
    records_.Add(side().Pages(3), kForeignTid, MonotonicNs());
    records_.Add(side().Pages(3, 2), gettid(), MonotonicNs());
  }
  records_.Add(side().Pages(3), gettid(), MonotonicNs() + 1'000'000);
  Drain();
  EXPECT_EQ(kernel_->Stats().foreign, 3u);
  EXPECT_FALSE(side().LeafOf(4).has_value());
}

TEST_P(KernelNotifierTest, ARemovalThatUserfaultfdReportedIsKnownWhileItIsPending) {
  const int64_t read_ns = MonotonicNs();
  side().ram->removal_records().Reported(side().Pages(3, 4), read_ns);
  records_.Add(side().Pages(4), kForeignTid, read_ns + 1000);
  records_.Add(side().Pages(6, 2), kForeignTid, read_ns + 1000);
  records_.Add(side().Pages(5), kForeignTid, read_ns + 60'000'000);
  Drain();
  EXPECT_EQ(kernel_->Stats().known, 1u);
  EXPECT_EQ(kernel_->Stats().foreign, 2u) << "beyond the removal, and too long after it";
}

// A removal may have completed by evidence and its page have a leaf again: the next change of the
// page is another one.
TEST_P(KernelNotifierTest, ARemovalExplainsOneRecordOfEachPage) {
  const int64_t read_ns = MonotonicNs();
  side().ram->removal_records().Reported(side().Pages(3), read_ns);
  records_.Add(side().Pages(3), kForeignTid, read_ns + 1000);
  Drain();
  EXPECT_EQ(kernel_->Stats().known, 1u);
  EXPECT_TRUE(side().LeafOf(3).has_value());
  records_.Add(side().Pages(3), kForeignTid, read_ns + 2000);
  Drain();
  EXPECT_EQ(kernel_->Stats().foreign, 1u);
  EXPECT_FALSE(side().LeafOf(3).has_value());
}

TEST_P(KernelNotifierTest, ALostRecordInvalidatesEverything) {
  records_.Lose(7);
  Drain();
  EXPECT_EQ(Leaves(), 0u);
  EXPECT_TRUE(side().ram->foreign_changes().Lately(side().Pages(6)));
  EXPECT_EQ(kernel_->Stats().lost, 7u);
  EXPECT_EQ(kernel_->Stats().resyncs, 1u);
  EXPECT_EQ(LastEvent().change, HostChange::kLostRecords);
  EXPECT_EQ(LastEvent().range, side().memory->hvas());
}

TEST_P(KernelNotifierTest, ARingThatMayHaveLostARecordCausesAResync) {
  records_.Overrun();
  Drain();
  EXPECT_EQ(Leaves(), 0u);
  EXPECT_EQ(kernel_->Stats().lost, 0u);
  EXPECT_EQ(kernel_->Stats().resyncs, 1u);
}

TEST_P(KernelNotifierTest, ARecordBeyondGuestRamIsClipped) {
  const HvaRange ram = side().memory->hvas();
  records_.Add({ram.end, ram.end + kPageSize});
  records_.Add({ram.begin - kPageSize, ram.begin});
  Drain();
  EXPECT_EQ(kernel_->Stats().records, 0u);
  records_.Add({Hva{0}, Hva{~uint64_t{0}}});
  Drain();
  EXPECT_EQ(kernel_->Stats().foreign, 1u);
  EXPECT_EQ(LastEvent().range, ram);
  EXPECT_EQ(Leaves(), 0u);
}

TEST_P(KernelNotifierTest, AnAgeIsCountedAndReportedAndDropsNothing) {
  constexpr uint64_t kAges = 100;
  const int64_t now = MonotonicNs();
  for (uint64_t i = 0; i < kAges; ++i) {
    records_.Add(side().Pages(i % kLeaves), kForeignTid, now + static_cast<int64_t>(i),
                 i % 2 == 0 ? KernelRecord::Kind::kAge : KernelRecord::Kind::kTestAge);
  }
  Drain();
  EXPECT_EQ(kernel_->Stats().ages, kAges);
  EXPECT_EQ(kernel_->Stats().unmaps, 0u);
  EXPECT_EQ(Leaves(), kLeaves);
  const std::vector<NumberedEvent> events = log_.Since(0, EventLog::kCapacity);
  EXPECT_EQ(
      std::count_if(events.begin(), events.end(),
                    [](const NumberedEvent& one) { return one.event.change == HostChange::kAge; }),
      1)
      << "a flood of them is not for the log";
}

// The record stands at the start of the change: a translation may come back before its end.
TEST_P(KernelNotifierTest, ATranslationMadeWhileTheChangeLastsIsDroppedToo) {
  const auto brackets = [&] { return mmu().Stats().notifier; };
  // Whether the translation is there before the second bracket begins is up to the scheduler.
  bool in_between = false;
  for (int attempt = 0; attempt < 100 && !in_between; ++attempt) {
    const uint64_t before = brackets().begins;
    records_.Add(side().Pages(3));
    Drain();
    FaultIn(3);
    in_between = brackets().begins == before + 1;
    ASSERT_TRUE(WaitUntil([&] { return brackets().ends == before + 2; }, kPatience));
  }
  ASSERT_TRUE(in_between);
  EXPECT_FALSE(side().LeafOf(3).has_value());
  FaultIn(3);
  Drain();
  EXPECT_TRUE(side().LeafOf(3).has_value());
}

TEST_P(QuietKernelNotifierTest, TheNextRecordWakesItAndThenItLooksByItselfAgain) {
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(WaitUntil([&] { return records_.wakes_at_once(); }));
    records_.Add(side().Pages(i));
    ASSERT_TRUE(WaitUntil([&] { return !records_.wakes_at_once(); }));
    EXPECT_FALSE(side().LeafOf(i).has_value());
  }
  EXPECT_EQ(Leaves(), kLeaves - 3);
}

TEST_P(QuietKernelNotifierTest, ARecordThatComesBeforeItWaitsIsNotForgotten) {
  records_.AddBeforeTheNextWait(side().Pages(3));
  EXPECT_TRUE(WaitUntil([&] { return !side().LeafOf(3).has_value(); }));
  EXPECT_EQ(Leaves(), kLeaves - 1);
}

TEST_P(KernelNotifierTest, StopAppliesTheReportedRecordsAndLeavesNoSubscriber) {
  records_.Add(side().Pages(3));
  kernel_->Stop();
  EXPECT_FALSE(side().LeafOf(3).has_value());
  EXPECT_FALSE(kernel_->Drain());
  ASSERT_TRUE(hooked::Madvise(side().Pages(5), MADV_DONTNEED).ok());
  EXPECT_TRUE(kernel_->Stats().enabled) << "it was";
}

TEST_P(KernelNotifierTest, IfItCannotBeOpenedItGivesTheReasonAndNoThreadWaits) {
  KernelNotifier none(mmu(), side().own_changes, side().memory->hvas(),
                      []() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
                        return absl::FailedPreconditionError("no tracefs is mounted");
                      });
  EXPECT_FALSE(none.Drain());
  ASSERT_TRUE(none.Start().ok());
  EXPECT_THAT(std::string(none.WaitUntilOpen().message()), HasSubstr("no tracefs"));
  EXPECT_FALSE(none.Drain());
  EXPECT_FALSE(none.enabled());
  EXPECT_EQ(none.Stats().why_not, "no tracefs is mounted");
  none.Stop();
}

// Hooks, faults and foreign records at once: brackets balance and Drain always returns.
TEST_P(KernelNotifierTest, BesideHooksAndFaultsEveryDrainEnds) {
  std::atomic<bool> stop{false};
  std::thread hooks([&] {
    for (uint64_t n = 0; !stop; ++n) {
      EXPECT_TRUE(hooked::Madvise(side().Pages(n % kLeaves), MADV_DONTNEED).ok());
    }
  });
  std::thread toucher([&] {
    for (uint64_t n = 0; !stop; ++n) side().Store(n % kLeaves, n);
  });
  for (uint64_t n = 0; n < 300; ++n) {
    records_.Add(side().Pages(n * 7 % kLeaves));
    Drain();
  }
  stop = true;
  hooks.join();
  toucher.join();
  EXPECT_EQ(kernel_->Stats().foreign, 300u);
}

TEST_P(KernelNotifierTest, AForeignRecordIsCountedByItsCause) {
  const Hva block{(side().PageAt(0).value + (uint64_t{2} << 20)) & ~((uint64_t{2} << 20) - 1)};
  records_.Add(side().Pages(3), gettid(), MonotonicNs());
  records_.Add(PageRangeOf(block, 512), gettid(), MonotonicNs());
  records_.Add(PageRangeOf(block, 512), kForeignTid, MonotonicNs());
  records_.Add(side().Pages(4), kForeignTid, MonotonicNs());
  int64_t inside = 0;
  {
    InvalidationScope hook(mmu().notifier(), {side().Pages(5), InvalidationKind::kUnmap});
    inside = MonotonicNs();
  }
  records_.Add(side().Pages(5), gettid(), inside);
  Drain();
  const KernelStats stats = kernel_->Stats();
  const auto of = [&](HostCause cause) { return stats.causes[static_cast<size_t>(cause)]; };
  EXPECT_EQ(of(HostCause::kThisProcess), 1u) << "not what a hook had told";
  EXPECT_EQ(of(HostCause::kHugePage), 2u);
  EXPECT_EQ(of(HostCause::kUnknown), 1u);
  EXPECT_EQ(stats.foreign, 4u);
  EXPECT_EQ(LastEvent().cause, HostCause::kThisProcess);
}

UNDERFOOT_FOR_BOTH_BACKINGS(KernelNotifierTest);
UNDERFOOT_FOR_BOTH_BACKINGS(QuietKernelNotifierTest);

TEST(HostCauseTest, IsByTheNameOfTheThread) {
  EXPECT_EQ(CauseOf("ksmd", false), HostCause::kKsm);
  EXPECT_EQ(CauseOf("khugepaged", false), HostCause::kCollapse);
  EXPECT_EQ(CauseOf("kcompactd0", false), HostCause::kCompaction);
  EXPECT_EQ(CauseOf("kswapd1", false), HostCause::kSwapOut);
  EXPECT_EQ(CauseOf("bash", false), HostCause::kOtherTask);
  EXPECT_EQ(CauseOf("ksmd", true), HostCause::kThisProcess);
  EXPECT_EQ(CauseOf("", false), HostCause::kUnknown);
}

TEST(HostCauseTest, OfABlockIsAHugePageUnlessTheThreadShowsMore) {
  const HvaRange block = PageRangeOf(Hva{0x7f0000200000}, 512);
  for (const HostCause task :
       {HostCause::kUnknown, HostCause::kThisProcess, HostCause::kOtherTask}) {
    EXPECT_EQ(CauseOf(task, block), HostCause::kHugePage);
    EXPECT_EQ(CauseOf(task, PageRangeOf(block.begin)), task);
    EXPECT_EQ(CauseOf(task, PageRangeOf(block.begin, 1024)), task) << "a call, or a fork";
    EXPECT_EQ(CauseOf(task, PageRangeOf(block.begin + kPageSize, 512)), task);
  }
  for (const HostCause task :
       {HostCause::kKsm, HostCause::kCollapse, HostCause::kCompaction, HostCause::kSwapOut}) {
    EXPECT_EQ(CauseOf(task, block), task);
  }
}

TEST(TaskNamesTest, ContainsTheThreadsOfThisProcessOnly) {
  TaskNames names;
  const TaskNames::Task self = names.Find(gettid(), MonotonicNs());
  EXPECT_NE(self.name[0], 0);
  EXPECT_EQ(self.cause, HostCause::kThisProcess);
  EXPECT_EQ(names.Find(kForeignTid, MonotonicNs()).cause, HostCause::kUnknown);
}

}  // namespace
}  // namespace underfoot::testing
