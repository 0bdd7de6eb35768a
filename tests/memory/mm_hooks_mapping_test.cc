// The strict source, where mappings themselves change: what guest RAM looks like afterwards.

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "vmm/hooks/calls.h"
#include "vmm/hooks/mapping.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/hooks/mm_hooks.h"

namespace underfoot::testing {
namespace {

class MmHooksMappingTest : public MemoryTest {
 protected:
  MmHooks& hooks() { return side().hooks; }

  // Of address space that nothing is mapped to yet.
  static HvaRange Elsewhere(uint64_t pages) {
    void* const place = mmap(nullptr, pages * kPageSize, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(place, MAP_FAILED);
    return PageRangeOf(HvaOf(place), pages);
  }

  // Guest accesses go on at page `i`: a fault brings it in with a leaf.
  void ExpectFaultsAreOurs(uint64_t i, uint64_t word) {
    EXPECT_FALSE(side().EntryOf(i).present);
    const uint64_t missing = side().monitor.Stats().missing + side().monitor.Stats().minor;
    EXPECT_EQ(side().Load(i), word);
    EXPECT_EQ(side().monitor.Stats().missing + side().monitor.Stats().minor, missing + 1);
    EXPECT_TRUE(WaitUntil([&] { return side().LeafOf(i).has_value(); }));
  }

  int MapFlags() { return memfd() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS; }

  std::vector<HostEvent> EventsOf(EventSource source) {
    std::vector<HostEvent> events;
    for (const NumberedEvent& numbered : side().events.Since(0, EventLog::kCapacity)) {
      if (numbered.event.source == source) events.push_back(numbered.event);
    }
    return events;
  }
};

TEST_P(MmHooksMappingTest, AMoveAwayAndBackRestoresContentAndRegistration) {
  StartMonitor();
  FaultIn(5);
  side().Store(5, 55);
  const HvaRange range = side().Pages(4, 4);
  const HvaRange away = Elsewhere(4);
  ASSERT_TRUE(hooked::Mremap(range, away.begin).ok());
  EXPECT_FALSE(side().LeafOf(5).has_value());
  const FaultResult nowhere = side().Fault(5, Access::kRead);
  EXPECT_EQ(nowhere.outcome, FaultOutcome::kFailed) << "a hole: accesses fail";
  ASSERT_TRUE(hooked::Mremap(away, range.begin).ok());
  EXPECT_EQ(side().Load(5), 55u);
  ExpectFaultsAreOurs(6, 0);
  FaultIn(5);
  EXPECT_EQ(side().LeafOf(5)->pfn(), side().EntryOf(5).pfn);
}

// A context without EVENT_REMAP loses what is moved: only the way back can mend that.
TEST_P(MmHooksMappingTest, WhatComesBackUnregisteredIsRegisteredAgain) {
  StartMonitor();
  const HvaRange range = side().Pages(4, 4);
  const HvaRange away = Elsewhere(4);
  ASSERT_TRUE(hooked::Mremap(range, away.begin).ok());
  uffdio_range there{away.begin.value, away.size()};
  ASSERT_EQ(ioctl(side().uffd.fd(), UFFDIO_UNREGISTER, &there), 0);
  ASSERT_TRUE(hooked::Mremap(away, range.begin).ok());
  ExpectFaultsAreOurs(6, 0);
}

TEST_P(MmHooksMappingTest, AMoveThatLeavesItsMappingLeavesItEmptyAndOurs) {
  StartMonitor();
  FaultIn(5);
  side().Store(5, 56);
  const HvaRange away = Elsewhere(4);
  const absl::Status moved = hooked::Mremap(side().Pages(4, 4), away.begin, MREMAP_DONTUNMAP);
  ASSERT_TRUE(moved.ok()) << moved;
  EXPECT_FALSE(side().LeafOf(5).has_value());
  ExpectFaultsAreOurs(5, memfd() ? 56u : 0u);
  munmap(PointerOf(away.begin), away.size());
}

TEST_P(MmHooksMappingTest, AMappingOverGuestRamIsRegistered) {
  StartMonitor();
  FaultIn(5);
  side().Store(5, 57);
  const HvaRange range = side().Pages(4, 4);
  const absl::Status mapped =
      HookedMapOver(range, PROT_READ | PROT_WRITE, MapFlags() | MAP_NORESERVE, side().memory->fd(),
                    side().GpaAt(4).value);
  ASSERT_TRUE(mapped.ok()) << mapped;
  EXPECT_FALSE(side().LeafOf(5).has_value());
  ExpectFaultsAreOurs(5, memfd() ? 57u : 0u);
}

TEST_P(MmHooksMappingTest, AShrinkLeavesAHoleWhereTheTailWas) {
  StartMonitor();
  const HvaRange more = side().MapMore();
  ASSERT_NE(hooks::Mremap(PointerOf(more.begin), more.size(), 2 * kPageSize, 0, nullptr),
            MAP_FAILED);
  Reader reader(mmu().readers());
  EXPECT_TRUE(
      static_cast<bool>(mmu().Translate(reader, GpaOf(MemorySide::kMore + 1), Access::kRead)));
  EXPECT_FALSE(
      static_cast<bool>(mmu().Translate(reader, GpaOf(MemorySide::kMore + 2), Access::kRead)));
  ASSERT_TRUE(hooked::Munmap({more.begin, more.begin + 2 * kPageSize}).ok());
}

// None of these events is foreign: no removal is pending, nothing is dropped twice.
TEST_P(MmHooksMappingTest, TheEventsOfOurOwnMovesAreKnown) {
  StartMonitor();
  const HvaRange range = side().Pages(4, 4);
  const HvaRange away = Elsewhere(4);
  ASSERT_TRUE(hooked::Mremap(range, away.begin).ok());
  ASSERT_TRUE(WaitUntil([&] { return EventsOf(EventSource::kUffd).size() == 2; }));
  for (const HostEvent& event : EventsOf(EventSource::kUffd)) {
    EXPECT_TRUE(event.known) << HostChangeName(event.change);
  }
  ASSERT_TRUE(hooked::Mremap(away, range.begin).ok());
}

TEST_P(MmHooksMappingTest, WhatIsLiftedInPartStaysProtectedElsewhere) {
  StartMonitor();
  FaultIn(4);
  FaultIn(6);
  ASSERT_TRUE(hooked::Mprotect(side().Pages(4, 4), PROT_READ).ok());
  EXPECT_FALSE(side().LeafOf(4).has_value());
  ASSERT_TRUE(hooked::Mprotect(side().Pages(5, 2), PROT_READ | PROT_WRITE).ok());
  FaultIn(6);
  EXPECT_EQ(side().Fault(4, Access::kRead).outcome, FaultOutcome::kBlocked);
  EXPECT_EQ(side().Fault(7, Access::kRead).outcome, FaultOutcome::kBlocked);
  EXPECT_EQ(mmu().in_flight().count(), 2u);
  ASSERT_TRUE(hooked::Mprotect(side().Pages(4, 4), PROT_READ | PROT_WRITE).ok());
  hooks().WaitForProtectionChange();
  FaultIn(4);
  FaultIn(7);
}

// As a library protects memory in which remap churn is at work.
TEST_P(MmHooksMappingTest, AProtectionGoesAwayAndComesBackWithItsMapping) {
  StartMonitor();
  FaultIn(4);
  const HvaRange range = side().Pages(4, 4);
  const HvaRange away = Elsewhere(2);
  ASSERT_TRUE(hooked::Mprotect(range, PROT_READ).ok());
  ASSERT_TRUE(hooked::Mremap(side().Pages(5, 2), away.begin).ok());
  ASSERT_TRUE(hooked::Mremap(away, side().PageAt(5)).ok());
  for (const uint64_t i : {4, 5, 6, 7}) {
    EXPECT_EQ(side().Fault(i, Access::kWrite).outcome, FaultOutcome::kBlocked) << i;
  }
  ASSERT_TRUE(hooked::Mprotect(range, PROT_READ | PROT_WRITE).ok());
  hooks().WaitForProtectionChange();
  for (const uint64_t i : {4, 5, 6, 7}) FaultIn(i);
}

TEST_P(MmHooksMappingTest, AMappingThatGrantsEverythingLiftsTheProtectionOfItsPlace) {
  const hooks::MappingQuery query;
  hooks::Mapping mapping;
  if (query.FindFrom(side().PageAt(4), &mapping) != hooks::MappingQuery::Answer::kFound) {
    UNDERFOOT_SKIP("the kernel has no PROCMAP_QUERY (Linux 6.11)");
  }
  StartMonitor();
  const HvaRange away = Elsewhere(2);
  ASSERT_TRUE(hooked::Mremap(side().Pages(5, 2), away.begin).ok());
  ASSERT_FALSE(hooked::Mprotect(side().Pages(4, 4), PROT_READ).ok()) << "there is a hole";
  ASSERT_TRUE(hooked::Mprotect(side().Pages(7), PROT_READ).ok());
  ASSERT_TRUE(hooked::Mremap(away, side().PageAt(5)).ok());
  FaultIn(5);
  FaultIn(6);
  EXPECT_EQ(side().Fault(4, Access::kRead).outcome, FaultOutcome::kBlocked);
  EXPECT_EQ(side().Fault(7, Access::kRead).outcome, FaultOutcome::kBlocked);
  EXPECT_TRUE(hooked::Mprotect(side().Pages(4, 4), PROT_READ | PROT_WRITE).ok());
}

TEST_P(MmHooksMappingTest, AnAbortedProtectionLeavesNothingProtected) {
  const Hva unaligned = side().PageAt(4) + 8;
  EXPECT_FALSE(hooked::Mprotect({unaligned, unaligned + kPageSize}, PROT_READ).ok());
  hooks().WaitForProtectionChange();
  FaultIn(4);
}

// It neither waits for the monitor, which does not run, nor leaves anything behind.
TEST_P(MmHooksMappingTest, ADiscardRaisesNoEvent) {
  FaultIn(5);
  side().Store(5, 58);
  FaultIn(9);
  const absl::Status discarded = hooks().Discard(side().Pages(4, 4)).status();
  ASSERT_TRUE(discarded.ok()) << discarded;
  EXPECT_FALSE(SomethingIsPending(side().uffd));
  EXPECT_FALSE(side().EntryOf(5).present);
  EXPECT_FALSE(side().LeafOf(5).has_value());
  EXPECT_TRUE(side().LeafOf(9).has_value());
  StartMonitor();
  EXPECT_EQ(side().Load(5), 0u);
}

TEST_P(MmHooksMappingTest, ADiscardWaitsForTheReaders) {
  FaultIn(5);
  side().Store(5, 59);
  std::thread discarder;
  {
    Reader reader(mmu().readers());
    const TranslatedPage page = mmu().Translate(reader, side().GpaAt(5), Access::kRead);
    ASSERT_TRUE(static_cast<bool>(page));
    discarder = std::thread([&] { EXPECT_TRUE(hooks().Discard(side().Pages(5)).ok()); });
    ASSERT_TRUE(WaitUntil([&] { return mmu().in_flight().count() == 1; }));
    EXPECT_TRUE(WaitUntil([&] { return !side().LeafOf(5).has_value(); }));
    EXPECT_EQ(side().Load(5), 59u);
  }
  discarder.join();
  EXPECT_FALSE(side().EntryOf(5).present);
}

TEST_P(MmHooksMappingTest, ManyDiscardsEmptyTheBin) {
  constexpr uint64_t kSome = 64;
  for (uint64_t round = 0; round < 3 * DiscardBin::kPages / kSome; ++round) {
    for (uint64_t i = 0; i < kSome; ++i) FaultIn(i);
    ASSERT_TRUE(hooks().Discard(side().Pages(0, kSome)).ok());
    for (uint64_t i = 0; i < kSome; ++i) ASSERT_FALSE(side().EntryOf(i).present) << i;
  }
}

TEST_P(MmHooksMappingTest, AMovedPageIsGoneHereAndThereWithItsContent) {
  if (memfd()) return;  // pages of a file do not move
  FaultIn(5);
  side().Store(5, 60);
  absl::StatusOr<Userfaultfd> other =
      Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  if (!other.ok()) UNDERFOOT_SKIP(std::string(other.status().message()));
  void* const place =
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_TRUE(other->Register(PageRangeOf(HvaOf(place)), Backing::kAnon).ok());
  const absl::Status moved = hooked::Move(*other, side().Pages(5), HvaOf(place));
  ASSERT_TRUE(moved.ok()) << moved;
  EXPECT_FALSE(side().LeafOf(5).has_value());
  EXPECT_FALSE(side().EntryOf(5).present);
  EXPECT_EQ(*static_cast<uint64_t*>(place), 60u);
  munmap(place, kPageSize);
}

TEST_P(MmHooksMappingTest, AnAsynchronousWriteProtectIsLiftedByTheKernel) {
  side_.reset();
  auto created = MemorySide::Create({.backing = GetParam(), .uffd = {.async_write_protect = true}});
  if (!created.ok()) UNDERFOOT_SKIP(std::string(created.status().message()));
  side_ = *std::move(created);
  StartMonitor();
  FaultIn(5);
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(4, 4)).ok());
  EXPECT_FALSE(side().LeafOf(5)->writable());
  side().Store(5, 61);
  EXPECT_EQ(side().monitor.Stats().wp, 0u);
  EXPECT_FALSE(side().LeafOf(5)->writable()) << "nobody told";
  EXPECT_EQ(side().Fault(5, Access::kWrite).outcome, FaultOutcome::kMapped);
  EXPECT_TRUE(side().LeafOf(5)->writable());
}

TEST_P(MmHooksMappingTest, AScatteredProcessMadviseDropsEachPlaceAndNoOther) {
  StartMonitor();
  for (uint64_t i = 0; i < 8; ++i) FaultIn(i);
  const std::array<HvaRange, 2> ranges{side().Pages(1), side().Pages(4, 2)};
  const absl::Status done = hooked::ProcessMadvise(ranges, MADV_DONTNEED);
  if (absl::IsInvalidArgument(done)) UNDERFOOT_SKIP("process_madvise knows no DONTNEED here");
  ASSERT_TRUE(done.ok()) << done;
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(side().LeafOf(i).has_value(), i != 1 && i != 4 && i != 5) << i;
  }
}

TEST_P(MmHooksMappingTest, AFileThatBecomesShorterDropsWhatWasBehind) {
  if (!memfd()) return;
  StartMonitor();
  FaultIn(5);
  const uint64_t bytes = side().memory->bytes();
  ASSERT_EQ(hooks::Ftruncate(side().memory->fd(), static_cast<off_t>(side().GpaAt(4).value)), 0);
  EXPECT_FALSE(side().LeafOf(5).has_value());
  ASSERT_EQ(hooks::Ftruncate(side().memory->fd(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(side().Load(5), 0u);
}

TEST_P(MmHooksMappingTest, AHookReportsTheThreadTheChangeAndWhetherPagesWerePresent) {
  StartMonitor();
  FaultIn(5);
  ASSERT_TRUE(hooked::Madvise(side().Pages(4, 4), MADV_DONTNEED).ok());
  ASSERT_TRUE(hooked::Madvise(side().Pages(4, 4), MADV_PAGEOUT).ok());
  const std::vector<HostEvent> events = EventsOf(EventSource::kHook);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].change, HostChange::kDiscard);
  EXPECT_EQ(events[0].call, "madvise");
  EXPECT_EQ(events[0].range, side().Pages(4, 4));
  EXPECT_EQ(events[0].tid, static_cast<int32_t>(syscall(SYS_gettid)));
  EXPECT_TRUE(events[0].invalidated);
  EXPECT_EQ(events[1].change, HostChange::kAdvise);
  EXPECT_FALSE(events[1].invalidated);
  ASSERT_TRUE(WaitUntil([&] { return EventsOf(EventSource::kUffd).size() == 1; }));
  EXPECT_TRUE(EventsOf(EventSource::kUffd)[0].known);
}

// Both are UFFDIO_MOVE on private memory; one of them takes the content away for good.
TEST_P(MmHooksMappingTest, ADiscardIsReportedAsOneWhateverCallMakesIt) {
  StartMonitor();
  FaultIn(5);
  ASSERT_TRUE(hooks().Discard(side().Pages(5)).ok());
  const std::vector<HostEvent> events = EventsOf(EventSource::kHook);
  ASSERT_FALSE(events.empty());
  for (const HostEvent& event : events) {
    EXPECT_EQ(event.change, memfd() ? HostChange::kPunch : HostChange::kDiscard);
    EXPECT_TRUE(event.call == "UFFDIO_MOVE" || event.call == "madvise" || event.call == "fallocate")
        << event.call;
  }
}

TEST_P(MmHooksMappingTest, AMoveToElsewhereIsReportedAsAMove) {
  if (memfd()) return;  // UFFDIO_MOVE is for private memory
  StartMonitor();
  FaultIn(5);
  auto uffd = Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  if (absl::IsUnimplemented(uffd.status())) UNDERFOOT_SKIP("no UFFDIO_MOVE before Linux 6.8");
  ASSERT_TRUE(uffd.ok()) << uffd.status();
  const HvaRange away = Elsewhere(1);
  ASSERT_EQ(mprotect(PointerOf(away.begin), kPageSize, PROT_READ | PROT_WRITE), 0);
  ASSERT_TRUE(uffd->Register(away, Backing::kAnon).ok());
  ASSERT_TRUE(hooked::Move(*uffd, side().Pages(5), away.begin).ok());
  const std::vector<HostEvent> events = EventsOf(EventSource::kHook);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].change, HostChange::kMove);
  EXPECT_EQ(events[0].call, "UFFDIO_MOVE");
}

TEST_P(MmHooksMappingTest, TheMonitorReportsAForeignChange) {
  StartMonitor();
  FaultIn(5);
  ASSERT_EQ(ForeignMadvise(side().Pages(4, 4), MADV_DONTNEED), 0);
  ASSERT_TRUE(WaitUntil([&] { return EventsOf(EventSource::kUffd).size() == 1; }));
  const HostEvent event = EventsOf(EventSource::kUffd)[0];
  EXPECT_EQ(event.change, HostChange::kDiscard);
  EXPECT_EQ(event.call, "");
  EXPECT_EQ(event.range, side().Pages(4, 4));
  EXPECT_FALSE(event.known);
  EXPECT_TRUE(event.invalidated);
  EXPECT_GE(event.taken_ns, event.happened_ns);
  EXPECT_TRUE(EventsOf(EventSource::kHook).empty());
}

// No hook waits for a reader of removals that are not reported.
TEST_P(MmHooksMappingTest, WithoutRemovalEventsAHookDoesNotWait) {
  side_.reset();
  auto created =
      MemorySide::Create({.backing = GetParam(), .uffd = {.events = UffdEvents::kNoRemovals}});
  ASSERT_TRUE(created.ok()) << created.status();
  side_ = *std::move(created);
  FaultIn(5);
  ASSERT_TRUE(hooked::Madvise(side().Pages(4, 4), MADV_DONTNEED).ok());
  EXPECT_FALSE(side().LeafOf(5).has_value());
  EXPECT_FALSE(SomethingIsPending(side().uffd));
}

UNDERFOOT_FOR_BOTH_BACKINGS(MmHooksMappingTest);

}  // namespace
}  // namespace underfoot::testing
