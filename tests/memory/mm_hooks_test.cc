// The strict source: the host mm call stands between Begin and End (I2), each bracket ends (I3).

#include "vmm/sources/hooks/mm_hooks.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <optional>
#include <thread>

#include "mmu/pfn_cache.h"
#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "tests/support/thread_state.h"
#include "tests/support/wait_until.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

// Looks at one page when a Begin has reached the subscribers, and again when its End has.
class EntryRecorder final : public Subscriber {
 public:
  EntryRecorder(MemorySide& side, uint64_t page) : side_(side), page_(page) {
    side_.mmu.notifier().Register(*this);
  }
  ~EntryRecorder() override { side_.mmu.notifier().Unregister(*this); }

  bool Invalidate(const Invalidation& invalidation) override {
    if (!invalidation.range.Overlaps(side_.Pages(page_))) return false;
    at_begin = side_.EntryOf(page_);
    in_flight_at_begin = side_.mmu.in_flight().FindOverlap(side_.Pages(page_)).has_value();
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange range) override {
    if (range.Overlaps(side_.Pages(page_))) at_end = side_.EntryOf(page_);
  }

  std::optional<PagemapEntry> at_begin;
  std::optional<PagemapEntry> at_end;
  bool in_flight_at_begin = false;

 private:
  MemorySide& side_;
  const uint64_t page_;
};

class MmHooksTest : public MemoryTest {
 protected:
  // Nothing of the page may be there, nor come, while its bracket is in flight (I1).
  void ExpectNothingOfThePage(uint64_t i) {
    EXPECT_FALSE(side().LeafOf(i).has_value());
    const FaultResult fault = side().Fault(i, Access::kRead);
    EXPECT_EQ(fault.outcome, FaultOutcome::kBlocked);
    EXPECT_FALSE(side().LeafOf(i).has_value());
  }

  void ExpectBalance(uint64_t brackets) {
    const NotifierStats stats = mmu().Stats().notifier;
    EXPECT_EQ(stats.begins, brackets);
    EXPECT_EQ(stats.ends, brackets);
    EXPECT_EQ(mmu().in_flight().count(), 0u);
  }

  // The page was there at Begin, and what the call does had been done at End.
  void ExpectTheCallInside(const std::function<absl::Status()>& call, bool gone) {
    FaultIn(5);
    side().Store(5, 1);
    EntryRecorder recorder(side(), 5);
    const absl::Status status = call();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(recorder.at_begin.has_value() && recorder.at_end.has_value());
    EXPECT_TRUE(recorder.in_flight_at_begin);
    EXPECT_TRUE(recorder.at_begin->present);
    EXPECT_FALSE(recorder.at_begin->uffd_wp);
    EXPECT_EQ(recorder.at_end->present, !gone);
    EXPECT_EQ(recorder.at_end->uffd_wp, !gone);
    ExpectBalance(1);
  }

  int DiscardAdvice() const { return memfd() ? MADV_REMOVE : MADV_DONTNEED; }
};

TEST_P(MmHooksTest, AMadviseStandsBetweenItsBeginAndItsEnd) {
  StartMonitor();
  ExpectTheCallInside([&] { return hooked::Madvise(side().Pages(4, 4), MADV_DONTNEED); }, true);
  // The call returns when its event is read; it is counted a moment later.
  EXPECT_TRUE(WaitUntil([&] { return side().monitor.Stats().removes == 1; }));
}

TEST_P(MmHooksTest, AWriteProtectStandsBetweenItsBeginAndItsEnd) {
  StartMonitor();
  ExpectTheCallInside([&] { return hooked::WriteProtect(side().uffd, side().Pages(4, 4)); }, false);
}

TEST_P(MmHooksTest, APunchedHoleStandsBetweenItsBeginAndItsEnd) {
  if (!memfd()) return;
  StartMonitor();
  ExpectTheCallInside(
      [&] { return hooked::PunchHole(side().memory->fd(), side().GpaAt(4).value, 4 * kPageSize); },
      true);
  EXPECT_EQ(side().Load(5), 0u);
}

// The call itself stands still until its event is read: time to look around inside it.
TEST_P(MmHooksTest, DuringTheCallThereIsNoTranslationAndNoneCanBeMade) {
  FaultIn(5);
  FaultIn(9);
  Reader reader(mmu().readers());
  PfnCache cache(mmu(), "cache");
  ASSERT_TRUE(cache.Activate(reader, side().GpaAt(5), kPageSize, Access::kWrite).ok());
  ASSERT_TRUE(static_cast<bool>(cache.Check(reader)));
  std::thread hook([&] {
    const absl::Status status = hooked::Madvise(side().Pages(4, 4), MADV_DONTNEED);
    EXPECT_TRUE(status.ok()) << status;
  });
  ASSERT_TRUE(WaitUntil([&] { return SomethingIsPending(side().uffd); }));
  ExpectNothingOfThePage(5);
  EXPECT_FALSE(static_cast<bool>(cache.Check(reader)));
  EXPECT_TRUE(side().LeafOf(9).has_value());
  ASSERT_TRUE(ReadOneEvent(side().uffd));
  hook.join();
  EXPECT_FALSE(side().EntryOf(5).present);
  EXPECT_EQ(cache.Refresh(reader), RefreshOutcome::kValid);
  cache.Deactivate();
}

TEST_P(MmHooksTest, ThePageStaysUntilItsReaderHasLeft) {
  StartMonitor();
  FaultIn(5);
  side().Store(5, 77);
  std::thread hook;
  {
    Reader reader(mmu().readers());
    const TranslatedPage page = mmu().Translate(reader, side().GpaAt(5), Access::kRead);
    ASSERT_TRUE(static_cast<bool>(page));
    hook = std::thread([&] {
      const absl::Status status = hooked::Madvise(side().Pages(4, 4), DiscardAdvice());
      EXPECT_TRUE(status.ok()) << status;
    });
    ASSERT_TRUE(WaitUntil([&] { return mmu().in_flight().count() == 1; }));
    EXPECT_TRUE(WaitUntil([&] { return !side().LeafOf(5).has_value(); }));
    EXPECT_TRUE(side().EntryOf(5).present);
    EXPECT_EQ(side().Load(5), 77u);
    EXPECT_EQ(side().monitor.Stats().removes, 0u);
  }
  hook.join();
  EXPECT_FALSE(side().EntryOf(5).present);
}

TEST_P(MmHooksTest, AWriteProtectTakesTheWriteAndKeepsTheTranslation) {
  StartMonitor();
  FaultIn(5);
  const Pfn pfn = side().LeafOf(5)->pfn();
  ASSERT_TRUE(side().LeafOf(5)->writable());
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(4, 4)).ok());
  ASSERT_TRUE(side().LeafOf(5).has_value());
  EXPECT_FALSE(side().LeafOf(5)->writable());
  EXPECT_EQ(side().LeafOf(5)->pfn(), pfn);
  EXPECT_TRUE(side().LeafOf(5)->dirty());
  side().Store(5, 3);
  // The thread that faulted may run before the leaf is there.
  EXPECT_TRUE(WaitUntil([&] {
    const std::optional<Pte> leaf = side().LeafOf(5);
    return leaf.has_value() && leaf->writable();
  }));
  EXPECT_EQ(side().monitor.Stats().wp, 1u);
}

TEST_P(MmHooksTest, AProtectionHoldsItsBracketOpen) {
  StartMonitor();
  FaultIn(5);
  side().Store(5, 8);
  const uint32_t epoch = side().hooks.protection_epoch();
  {
    hooked::Protection protection(side().Pages(4, 4), PROT_READ);
    ASSERT_TRUE(protection.status().ok()) << protection.status();
    EXPECT_NE(side().hooks.protection_epoch(), epoch);
    ExpectNothingOfThePage(5);
    EXPECT_EQ(side().Load(5), 8u);
  }
  ExpectBalance(1);
  side().hooks.WaitForProtectionChange();
  side().Store(5, 9);
  EXPECT_EQ(side().Load(5), 9u);
}

// What is held agrees with the call that the kernel made last.
TEST_P(MmHooksTest, CallsThatChangePermissionsAreNotedInTheOrderInWhichTheyWereMade) {
  struct Stage final : HostEventSink {
    void Report(const HostEvent&) override {
      if (!stops.exchange(false)) return;
      EXPECT_TRUE(WaitUntil([this] { return goes_on.load(); }));
    }
    std::atomic<bool> stops{true};
    std::atomic<bool> goes_on{false};
  } stage;
  const HvaRange range = side().Pages(0, 4);
  MmHooks hooks(mmu().notifier(), side().uffd, side().expected, &stage);
  ASSERT_TRUE(hooks.Attach(range, GetParam()).ok());
  std::thread first([&] { EXPECT_TRUE(hooked::Mprotect(range, PROT_READ | PROT_WRITE).ok()); });
  ASSERT_TRUE(WaitUntil([&] { return !stage.stops; }));  // it is done and not noted
  std::atomic<bool> done{false};
  std::atomic<pid_t> second_id{0};
  std::thread second([&] {
    second_id = gettid();
    EXPECT_TRUE(hooked::Mprotect(range, PROT_READ).ok());
    done = true;
  });
  EXPECT_TRUE(WaitUntil([&] { return done || (second_id != 0 && ThreadSleeps(second_id)); }));
  stage.goes_on = true;
  first.join();
  second.join();
  EXPECT_TRUE(mmu().in_flight().FindOverlap(range).has_value()) << "read-only and not in flight";
  EXPECT_TRUE(hooked::Mprotect(range, PROT_READ | PROT_WRITE).ok());
  EXPECT_FALSE(mmu().in_flight().FindOverlap(range).has_value());
}

// Protections of several threads overlap for as long as they please: one end is enough to look.
TEST_P(MmHooksTest, AWaiterForAProtectionResumesWhenOneIsLifted) {
  auto lasting = std::make_unique<hooked::Protection>(side().Pages(0), PROT_READ);
  std::atomic<bool> waited{false};
  std::thread waiter([&] {
    side().hooks.WaitForProtectionChange();
    waited = true;
  });
  EXPECT_FALSE(waited);
  EXPECT_TRUE(WaitUntil([&] {
    const hooked::Protection passing(side().Pages(1), PROT_READ);
    return waited.load();
  }));
  lasting.reset();
  waiter.join();
}

TEST_P(MmHooksTest, AnUnmapStandsBetweenItsBeginAndItsEnd) {
  StartMonitor();
  const HvaRange range = side().MapMore();
  ASSERT_TRUE(hooked::Munmap(range).ok());
  EXPECT_TRUE(WaitUntil([&] { return side().monitor.Stats().unmaps == 1; }));
  Reader reader(mmu().readers());
  EXPECT_FALSE(static_cast<bool>(mmu().Translate(reader, GpaOf(MemorySide::kMore), Access::kRead)));
  EXPECT_EQ(mmu().faults().FaultIn(reader, MemorySide::kMore, Access::kRead).outcome,
            FaultInOutcome::kFailed);
  ExpectBalance(1);
}

TEST_P(MmHooksTest, ACallThatFailsNamesItsRangeAndEndsItsBracket) {
  StartMonitor();
  constexpr HvaRange kNowhere{{0x10000}, {0x12000}};
  ASSERT_TRUE(side().hooks.Attach(kNowhere, Backing::kAnon).ok());
  for (const absl::Status& status :
       {hooked::Madvise(kNowhere, MADV_DONTNEED), hooked::WriteProtect(side().uffd, kNowhere),
        hooked::Protection(kNowhere, PROT_READ).status()}) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("[0x10000, 0x12000)"), std::string::npos) << status;
  }
  EXPECT_FALSE(HookedMapOver(kNowhere, PROT_READ, MAP_SHARED, -1, 0).ok());
  ExpectBalance(4);
  side().hooks.WaitForProtectionChange();
}

// The monitor distinguishes its own process's events from those of others by the announcements of
// the hooks.
TEST_P(MmHooksTest, TheEventOfAHookCompletesNoRemoval) {
  StartMonitor();
  FaultIn(5);
  ASSERT_TRUE(hooked::Madvise(side().Pages(4, 4), MADV_DONTNEED).ok());
  ASSERT_TRUE(WaitUntil([&] { return side().monitor.Stats().removes == 1; }));
  EXPECT_FALSE(side().removals.Explains(side().Pages(4, 4)));
  FaultIn(5);
  ExpectBalance(1);
}

UNDERFOOT_FOR_BOTH_BACKINGS(MmHooksTest);

}  // namespace
}  // namespace underfoot::testing
