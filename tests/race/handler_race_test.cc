// Interleavings of several handlers of one userfaultfd, over real memory. What needs no sync point
// is in tests/memory/fault_handlers_test.cc.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "tests/race/staging.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/uffd/handler_back_off.h"
#include "vmm/sources/uffd/uffd_monitor.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPages = 16;
constexpr Gfn kFirst{0x100};

// Memory under userfaultfd with two handlers, a memslot over it, and no hooks.
class HandlerRaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open();
    if (!uffd.ok()) UNDERFOOT_SKIP(std::string(uffd.status().message()));
    absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    ASSERT_TRUE(pagemap.ok()) << pagemap.status();
    void* const base = mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(base, MAP_FAILED);
    static_cast<void>(madvise(base, kPages * kPageSize, MADV_NOHUGEPAGE));
    ram_ = PageRangeOf(HvaOf(base), kPages);
    ASSERT_TRUE(uffd->Register(ram_, Backing::kAnon).ok());
    parts_ = std::make_unique<Parts>(*std::move(uffd), *std::move(pagemap));
    const absl::Status created =
        mmu().CreateMemslot({.id = 1, .gfns = {kFirst, kFirst + kPages}, .hva = ram_.begin});
    ASSERT_TRUE(created.ok()) << created;
    ASSERT_TRUE(parts_->monitor.Start().ok());
  }
  void TearDown() override {
    Gate::OpenAll();
    ClearSyncPoints();
    if (parts_ != nullptr) parts_->monitor.Stop();
    parts_.reset();
    if (!ram_.empty()) munmap(PointerOf(ram_.begin), ram_.size());
  }

  struct Parts {
    Parts(Userfaultfd opened, Pagemap opened_pagemap)
        : uffd(std::move(opened)), pagemap(std::move(opened_pagemap)) {}
    Userfaultfd uffd;
    Pagemap pagemap;
    PendingRemovals removals{absl::Hours(1)};
    ExpectedEvents expected;
    GuestPageSource source{uffd, pagemap, removals, Backing::kAnon};
    Mmu mmu{source};
    UffdMonitor monitor{mmu, uffd, pagemap, source, expected, removals, {}, {.handlers = 2}};
  };

  Mmu& mmu() { return parts_->mmu; }
  UffdStats Stats() { return parts_->monitor.Stats(); }
  HvaRange Page(uint64_t i) const { return PageRangeOf(ram_.begin + i * kPageSize); }
  uint64_t Load(uint64_t i) const {
    return std::atomic_ref(*static_cast<uint64_t*>(PointerOf(Page(i).begin))).load();
  }
  void FaultIn(uint64_t i) {
    Reader reader(mmu().readers());
    ASSERT_EQ(mmu().faults().FaultIn(reader, kFirst + i, Access::kWrite).outcome,
              FaultInOutcome::kMapped);
  }
  bool HasLeaf(uint64_t i) {
    rcu::ReadScope rcu;
    return mmu().stage2().Lookup(kFirst + i).has_value();
  }
  // As by another thread or process; it returns when its event has been read.
  void Remove(uint64_t i) {
    ASSERT_EQ(syscall(SYS_madvise, Page(i).begin.value, kPageSize, MADV_DONTNEED), 0);
  }

  HvaRange ram_ = {};
  std::unique_ptr<Parts> parts_;
};

// vmm/sources/uffd/lost_copy.h, second drawing.
TEST_F(HandlerRaceTest, AnEventThatAnotherHandlerHasReadExplainsALostPage) {
  FaultIn(3);
  Gate gate("event-read");
  Task remover("remover", [&] { Remove(3); });
  ASSERT_TRUE(gate.AwaitArrival());
  remover.Join();  // the page is gone, and its leaf is still there
  ASSERT_TRUE(HasLeaf(3));
  EXPECT_EQ(Load(3), 0u);  // the other handler serves this
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
  EXPECT_FALSE(HasLeaf(3) && !parts_->pagemap.Read(Page(3).begin).present);
  gate.Open();
  ASSERT_TRUE(WaitUntil([&] { return Stats().removes == 1; }));
  parts_->monitor.WaitForBatch();
  EXPECT_FALSE(HasLeaf(3)) << "the application of the event drops what came in meanwhile";
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
}

// vmm/sources/uffd/handler_back_off.h: at each fault both handlers are woken, and the same one of them comes
// to an empty queue.
TEST_F(HandlerRaceTest, SpuriousWakeUpsMakeAHandlerBackOffAndTheOtherOneServes) {
  constexpr unsigned kFaults = HandlerBackOff::kSpuriousWakeUps;
  struct State {
    std::atomic<std::thread::id> late{};  // the handler that was woken first
    std::atomic<unsigned> fault{0};
    std::atomic<unsigned> woken{0};
    std::atomic<unsigned> served{0};
    std::atomic<unsigned> spurious{0};
  };
  const auto state = std::make_shared<State>();  // a handler may look at it after the test
  SetSyncPoint("handler-woken", [state] {
    std::thread::id none{};
    state->late.compare_exchange_strong(none, std::this_thread::get_id());
    const unsigned fault = state->fault;
    if (fault > kFaults) return;
    if (state->late.load() == std::this_thread::get_id()) {
      state->woken = fault;
      state->woken.notify_all();
      state->served.wait(fault - 1);
    } else {
      state->woken.wait(fault - 1);
    }
  });
  SetSyncPoint("handler-woken-spuriously", [state] { ++state->spurious; });
  Gate gate("handler-backs-off");
  for (unsigned fault = 1; fault <= kFaults; ++fault) {
    state->fault = fault;
    EXPECT_EQ(Load(fault), 0u);
    state->served = fault;
    state->served.notify_all();
    ASSERT_TRUE(WaitUntil([&] { return state->spurious.load() == fault; }));
  }
  state->fault = kFaults + 1;
  ASSERT_TRUE(gate.AwaitArrival());
  for (uint64_t i = 0; i < 10 * kPages; ++i) {  // the one that backs off stands at the gate
    EXPECT_EQ(Load(i % kPages), 0u);
    Remove(i % kPages);
  }
  gate.Open();
}

// vmm/evidence/event_reads.h: what its Wait promises to the auditor.
TEST_F(HandlerRaceTest, AWaitForReadsEndsWhenEachReadThatWasOpenIsApplied) {
  FaultIn(3);
  Gate gate("event-read");
  Task remover("remover", [&] { Remove(3); });
  ASSERT_TRUE(gate.AwaitArrival());
  remover.Join();
  EXPECT_FALSE(parts_->removals.reads().None());
  std::atomic<bool> applied_by_then{false};
  Task waiter("waiter", [&] {
    parts_->monitor.WaitForBatch();
    applied_by_then = parts_->removals.Explains(Page(3));
  });
  Remove(5);  // the other handler reads and applies this one
  ASSERT_TRUE(WaitUntil([&] { return parts_->removals.Explains(Page(5)); }));
  EXPECT_FALSE(parts_->removals.Explains(Page(3)));
  gate.Open();
  waiter.Join();
  EXPECT_TRUE(applied_by_then);
}

// vmm/evidence/expected_events.h: the handler is late, its call has returned, and the other handler
// has read since.
TEST_F(HandlerRaceTest, AnEventOfOurOwnIsKnownAlthoughItsCallHasReturned) {
  FaultIn(3);
  Gate gate("event-read");
  Task own("own call", [&] {
    const uint64_t id = parts_->expected.Expect(Page(3));
    Remove(3);
    parts_->expected.Returned(id);
  });
  ASSERT_TRUE(gate.AwaitArrival());
  own.Join();
  Remove(5);
  ASSERT_TRUE(WaitUntil([&] { return parts_->removals.Explains(Page(5)); }));
  gate.Open();
  ASSERT_TRUE(WaitUntil([&] { return Stats().removes == 2; }));
  parts_->monitor.WaitForBatch();
  EXPECT_FALSE(parts_->removals.Explains(Page(3)));
  EXPECT_TRUE(HasLeaf(3)) << "a bracket of the call's own drops it, and there is none here";
}

// And one of another process is foreign, although a call of ours on the same range is long over.
TEST_F(HandlerRaceTest, AnEventThatIsReadAfterAFailedCallIsForeign) {
  FaultIn(3);
  parts_->expected.Returned(parts_->expected.Expect(Page(3)));
  Remove(3);
  ASSERT_TRUE(WaitUntil([&] { return parts_->removals.Explains(Page(3)); }));
  parts_->monitor.WaitForBatch();
  EXPECT_FALSE(HasLeaf(3));
}

// Two handlers apply removals of one page at once: the second is added before the first is noted.
TEST_F(HandlerRaceTest, RemovalsThatTwoHandlersApplyAtOnceShareTheirEvidence) {
  FaultIn(3);
  Gate gate("removal-added");
  Task first("first remover", [&] { Remove(3); });
  ASSERT_TRUE(gate.AwaitArrival());
  first.Join();
  Task second("second remover", [&] { Remove(3); });
  ASSERT_TRUE(WaitUntil([&] { return mmu().Stats().notifier.ends == 1; }));
  second.Join();
  gate.Open();
  parts_->monitor.WaitForBatch();
  EXPECT_EQ(Load(3), 0u);  // found absent, and copied in
  EXPECT_EQ(parts_->removals.settled(), 0u);
  EXPECT_TRUE(parts_->removals.Pending(Page(3)));
  EXPECT_FALSE(HasLeaf(3));
}

// The page-in has its claim and has found no removal. The other handler reads one and applies it.
TEST_F(HandlerRaceTest, ABeginOfAnotherHandlerTakesTheClaimOfAPageIn) {
  Gate gate("fault-before-page-in");
  Task guest("guest", [&] { EXPECT_EQ(Load(3), 0u); });
  ASSERT_TRUE(gate.AwaitArrival());
  Gate after("fault-after-page-in");
  gate.Open();
  ASSERT_TRUE(after.AwaitArrival());  // the copy has woken the guest
  guest.Join();
  Remove(3);
  ASSERT_TRUE(WaitUntil([&] { return parts_->removals.Explains(Page(3)); }));
  parts_->monitor.WaitForBatch();
  after.Open();
  ASSERT_TRUE(WaitUntil([&] { return Stats().fault_us.count == 1; }));
  EXPECT_FALSE(HasLeaf(3));
}

// fault_resolver.cc, TryResolve:
//
//   handler                            guest                        device worker
//   copies the page, wakes
//                                      uses it, gives it back
//                                                                   Begin: takes the claim; discards
//   cannot publish: the claim is gone
//
// No thread waits for the page any more. If the handler tried again, it would bring it back. The same
// holds if the page goes before the handler has looked at its frame.
class GivenBackTest : public HandlerRaceTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(GivenBackTest, APageThatIsGivenBackAfterItsCopyStaysAway) {
  Gate after(GetParam());
  Task guest("guest", [&] { EXPECT_EQ(Load(3), 0u); });
  ASSERT_TRUE(after.AwaitArrival());
  guest.Join();
  ASSERT_TRUE(parts_->pagemap.Read(Page(3).begin).present);
  {
    const InvalidationScope bracket(mmu().notifier(), {Page(3)});
    const uint64_t id = parts_->expected.Expect(Page(3));
    Remove(3);
    parts_->expected.Returned(id);
  }
  after.Open();
  ASSERT_TRUE(WaitUntil([&] { return Stats().fault_us.count == 1; }));
  EXPECT_EQ(Stats().put_off, 0u);
  EXPECT_FALSE(parts_->pagemap.Read(Page(3).begin).present);
  EXPECT_FALSE(HasLeaf(3));
}

INSTANTIATE_TEST_SUITE_P(Points, GivenBackTest,
                         ::testing::Values("page-came-in", "fault-after-page-in"));

// A handler that looks for a lost copy is overtaken by an event; its second look at the leaf comes
// last.
TEST_F(HandlerRaceTest, AnEventThatIsAppliedAfterTheLookExplainsALostPage) {
  FaultIn(3);
  Gate reads("event-read");
  Task remover("remover", [&] { Remove(3); });
  ASSERT_TRUE(reads.AwaitArrival());
  remover.Join();
  Gate looked("lost-copy-looked");
  Task guest("guest", [&] { EXPECT_EQ(Load(3), 0u); });
  ASSERT_TRUE(looked.AwaitArrival());
  reads.Open();
  ASSERT_TRUE(WaitUntil([&] { return !HasLeaf(3); }));
  parts_->monitor.WaitForBatch();
  looked.Open();
  guest.Join();
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
}

}  // namespace
}  // namespace underfoot::testing
