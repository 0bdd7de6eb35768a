// Several handlers of one userfaultfd: what they do side by side, where they meet, and that one of
// them that stands still holds up no other.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/memory/memory_test.h"
#include "tests/memory/pending_event.h"
#include "vmm/churn/forking.h"
#include "vmm/host/capability.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

// Stops the threads that pass while it is shut.
class Turnstile {
 public:
  void Pass() {
    std::unique_lock lock(mutex_);
    if (!shut_) return;
    ++inside_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !shut_; });
    --inside_;
  }
  void Shut() { Set(true); }
  void Open() { Set(false); }
  [[nodiscard]] bool AwaitInside(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, [&] { return inside_ == count; });
  }

 private:
  void Set(bool shut) {
    const std::lock_guard lock(mutex_);
    shut_ = shut;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
  int inside_ = 0;
};

class FaultHandlersTest : public MemoryTest {
 protected:
  static constexpr uint64_t kSlowPage = 100;

  void SetUp() override { CreateWith(2); }
  void TearDown() override {
    slow_page_.Open();
    MemoryTest::TearDown();
    if (side_ != nullptr) side_->monitor.Stop();  // before the sink's turnstile goes
    side_.reset();
  }

  // A page-in of kSlowPage stops at `slow_page_`.
  void CreateWith(unsigned handlers, uint64_t fault_around = 1) {
    side_.reset();
    absl::StatusOr<std::unique_ptr<MemorySide>> side =
        MemorySide::Create({.backing = GetParam(),
                            .fault_around = fault_around,
                            .fault_handlers = handlers,
                            .removal_bound = absl::Hours(1),
                            .touch_sink = [this](Hva page) {
                              if (page == slow_hva_) slow_page_.Pass();
                            }});
    if (absl::IsPermissionDenied(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
    slow_hva_ = side_->PageAt(kSlowPage);
    StartMonitor();
  }

  UffdStats Stats() { return side().monitor.Stats(); }

  Turnstile slow_page_;
  std::atomic<Hva> slow_hva_{Hva{0}};
};

TEST_P(FaultHandlersTest, AFaultIsServedWhileAnotherHandlerIsInAPageIn) {
  slow_page_.Shut();
  std::thread slow([&] { side().Store(kSlowPage, 1); });
  ASSERT_TRUE(slow_page_.AwaitInside(1));
  for (uint64_t page = 0; page < 16; ++page) side().Store(page, page + 1);
  EXPECT_FALSE(side().EntryOf(kSlowPage).present);
  slow_page_.Open();
  slow.join();
  for (uint64_t page = 0; page < 16; ++page) EXPECT_EQ(side().Load(page), page + 1);
  EXPECT_EQ(side().Load(kSlowPage), 1u);
}

TEST_P(FaultHandlersTest, AnEventIsReadAndAppliedWhileAnotherHandlerIsInAPageIn) {
  FaultIn(3);
  slow_page_.Shut();
  std::thread slow([&] { side().Store(kSlowPage, 1); });
  ASSERT_TRUE(slow_page_.AwaitInside(1));
  ASSERT_EQ(ForeignMadvise(side().Pages(3), MADV_DONTNEED), 0);
  side().monitor.WaitForBatch();
  EXPECT_EQ(Stats().removes, 1u);
  EXPECT_FALSE(side().LeafOf(3).has_value());
  slow_page_.Open();
  slow.join();
}

// Two threads at one page are two messages. The second handler finds the claim of the first.
TEST_P(FaultHandlersTest, HandlersThatMeetAtOnePageMerge) {
  slow_page_.Shut();
  std::vector<std::thread> threads;
  threads.emplace_back([&] { side().Store(kSlowPage, 7); });
  ASSERT_TRUE(slow_page_.AwaitInside(1));
  threads.emplace_back([&] { EXPECT_EQ(side().Load(kSlowPage + 1), 0u); });
  threads.back().join();
  threads.back() = std::thread([&] { side().Load(kSlowPage); });
  EXPECT_TRUE(WaitUntil([&] { return Stats().merged == 1; }));
  EXPECT_TRUE(WaitUntil([&] { return Stats().put_off == 1; }));
  slow_page_.Open();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(side().Load(kSlowPage), 7u);
  EXPECT_TRUE(WaitUntil([&] { return Stats().fault_us.count == 3; })) << "each is resolved once";
  EXPECT_EQ(Stats().merged, 1u);
  EXPECT_TRUE(WaitUntil([&] { return side().LeafOf(kSlowPage).has_value(); }));
  EXPECT_EQ(side().LeafOf(kSlowPage)->pfn(), side().EntryOf(kSlowPage).pfn);
}

// The page-in has found no removal. Then another handler reads one: its Begin takes the claim.
TEST_P(FaultHandlersTest, ARemovalThatIsReadDuringAPageInTakesItsClaim) {
  slow_page_.Shut();
  std::thread slow([&] { side().Store(kSlowPage, 1); });
  ASSERT_TRUE(slow_page_.AwaitInside(1));
  ASSERT_EQ(ForeignMadvise(side().Pages(kSlowPage), MADV_DONTNEED), 0);
  side().monitor.WaitForBatch();
  ASSERT_TRUE(side().removals.Pending(side().Pages(kSlowPage)));
  slow_page_.Open();
  slow.join();
  EXPECT_TRUE(WaitUntil([&] { return Stats().fault_us.count == 1; }));
  EXPECT_FALSE(side().LeafOf(kSlowPage).has_value()) << "a leaf on a page whose zap is to come";
  EXPECT_EQ(side().Load(kSlowPage), 1u);
}

// Stops the handler that applies an event about `page`.
class StopsAnApplication final : public Subscriber {
 public:
  StopsAnApplication(Mmu& mmu, HvaRange page) : mmu_(mmu), page_(page) {
    mmu_.notifier().Register(*this);
    turnstile.Shut();
  }
  ~StopsAnApplication() override {
    turnstile.Open();
    mmu_.notifier().Unregister(*this);
  }
  bool Invalidate(const Invalidation& invalidation) override {
    if (invalidation.range.Overlaps(page_)) turnstile.Pass();
    return false;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }

  Turnstile turnstile;

 private:
  Mmu& mmu_;
  const HvaRange page_;
};

// The event of page 1 has been read and is being applied: no absence anywhere is evidence meanwhile.
TEST_P(FaultHandlersTest, WhileAnEventIsAppliedNoRemovalCompletesByEvidence) {
  FaultIn(0);
  ASSERT_EQ(ForeignMadvise(side().Pages(0), MADV_DONTNEED), 0);
  side().monitor.WaitForBatch();
  {
    StopsAnApplication stops(mmu(), side().Pages(1));
    ASSERT_EQ(ForeignMadvise(side().Pages(1), MADV_DONTNEED), 0);
    ASSERT_TRUE(stops.turnstile.AwaitInside(1));
    std::atomic<bool> waited{false};
    std::thread waiter([&] {
      side().monitor.WaitForBatch();
      waited = true;
    });
    side().Load(0);
    EXPECT_EQ(side().removals.settled(), 0u);
    EXPECT_TRUE(side().removals.Pending(side().Pages(0)));
    EXPECT_FALSE(side().LeafOf(0).has_value());
    EXPECT_FALSE(waited.load());
    stops.turnstile.Open();
    waiter.join();
  }
  ASSERT_TRUE(hooked::Madvise(side().Pages(2), MADV_DONTNEED).ok());  // goes on as ever
}

TEST_P(FaultHandlersTest, AHandlerThatAppliesAnEventHoldsUpNoFault) {
  StopsAnApplication stops(mmu(), side().Pages(1));
  ASSERT_EQ(ForeignMadvise(side().Pages(1), MADV_DONTNEED), 0);
  ASSERT_TRUE(stops.turnstile.AwaitInside(1));
  for (uint64_t page = 8; page < 24; ++page) side().Store(page, page);
  for (uint64_t page = 8; page < 24; ++page) EXPECT_EQ(side().Load(page), page);
}

// As with one handler, whichever of them has put the faults off.
TEST_P(FaultHandlersTest, FaultsInsideABracketAreServedAtItsEnd) {
  BracketToken token = mmu().notifier().Begin({side().Pages(0, 8)});
  std::vector<std::thread> threads;
  for (uint64_t page = 0; page < 8; ++page) {
    threads.emplace_back([&, page] { side().Store(page, page + 1); });
  }
  EXPECT_TRUE(WaitUntil([&] { return Stats().put_off == 8; }));
  side().Store(20, 1);
  mmu().notifier().End(token);
  for (std::thread& thread : threads) thread.join();
  for (uint64_t page = 0; page < 8; ++page) EXPECT_EQ(side().Load(page), page + 1);
}

TEST_P(FaultHandlersTest, StreamsOfSeveralThreadsGetWindows) {
  CreateWith(2, 64);
  constexpr uint64_t kPages = 512;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kPages; ++i) side().Store(t * 1024 + 512 + i, t * kPages + i + 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t t = 0; t < 2; ++t) {
    for (uint64_t i = 0; i < kPages; ++i) {
      EXPECT_EQ(side().Load(t * 1024 + 512 + i), t * kPages + i + 1);
    }
  }
  EXPECT_LT(TotalFaults(Stats()), kPages) << "most pages came in beside one that faulted";
  EXPECT_GT(Stats().around, kPages);
  EXPECT_EQ(Stats().lost_copies_repaired, 0u);
}

// More handlers than CPUs, fewer, and as many as there may be.
TEST_P(FaultHandlersTest, AnyNumberOfHandlersServesAndIsCounted) {
  for (const unsigned handlers : {1u, 3u, kMostEventReaders}) {
    CreateWith(handlers);
    ASSERT_EQ(Stats().handlers, handlers);
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (uint64_t page = t; page < 256; page += 4) side().Store(page, page);
      });
    }
    for (std::thread& thread : threads) thread.join();
    uint64_t faults = 0;
    for (const uint64_t of_one : Stats().by_handler.faults) faults += of_one;
    EXPECT_EQ(faults, 256u);
    EXPECT_EQ(TotalFaults(Stats()), 256u);
    EXPECT_GE(Stats().cpu_samples, 1u) << "the first fault of a handler is one";
    EXPECT_LE(Stats().crossed_cpus, Stats().cpu_samples);
  }
}

TEST_P(FaultHandlersTest, AnImpossibleNumberOfHandlersIsRefused) {
  for (const unsigned handlers : {0u, kMostEventReaders + 1}) {
    const auto ram = CoherentRam::Create({.bytes = MemorySide::kBytes, .fault_handlers = handlers});
    EXPECT_TRUE(absl::IsInvalidArgument(ram.status())) << ram.status();
  }
}

// A stop while faults are put off at several handlers drops them. The threads that wait for them
// continue when the descriptor is closed.
TEST_P(FaultHandlersTest, AStopEndsEveryHandler) {
  BracketToken token = mmu().notifier().Begin({side().Pages(0, 8)});
  std::vector<std::thread> threads;
  for (uint64_t page = 0; page < 8; ++page) {
    threads.emplace_back([&, page] { side().Store(page, page + 1); });
  }
  EXPECT_TRUE(WaitUntil([&] { return Stats().put_off == 8; }));
  side().monitor.Stop();
  mmu().notifier().End(token);
  { const Userfaultfd gone = std::move(side().uffd); }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t page = 0; page < 8; ++page) EXPECT_EQ(side().Load(page), page + 1);
}

// Removals by another thread, forks and faults side by side: each gets on. While a removal or a fork
// is under way the kernel maps nothing, so in closed loops of them hardly a fault would be resolved,
// whatever the number of handlers: they pause until the guest has made a step, or for a moment.
TEST_P(FaultHandlersTest, ForeignRemovalsForksAndFaultsAllGetOn) {
  CreateWith(3, 16);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> removals{0};
  std::atomic<uint64_t> forks{0};
  std::atomic<uint64_t> stores{0};
  const auto let_guest_get_on = [&] {
    const uint64_t before = stores;
    static_cast<void>(
        WaitUntil([&] { return stores != before || stop; }, std::chrono::milliseconds(1)));
  };
  std::thread remover([&] {
    for (; !stop; ++removals) {
      EXPECT_EQ(ForeignMadvise(side().Pages(1000, 4), MADV_DONTNEED), 0);
      let_guest_get_on();
    }
  });
  std::thread forker([&] {
    for (; !stop; ++forks) {
      EXPECT_TRUE(ForkWith(side().Pages(1100, 4), absl::ZeroDuration()).ok());
      let_guest_get_on();
    }
  });
  std::thread guest([&] {
    for (uint64_t i = 0; !stop; ++i, ++stores) {
      side().Store(i % 900, i);
      if (i % 900 == 899) {
        EXPECT_TRUE(hooked::Madvise(side().Pages(0, 900), MADV_DONTNEED).ok());
      }
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return removals > 100 && forks > 5 && stores > 200; }, kPatience))
      << removals << " removals, " << forks << " forks, " << stores << " stores";
  stop = true;
  remover.join();
  forker.join();
  guest.join();
}

UNDERFOOT_FOR_BOTH_BACKINGS(FaultHandlersTest);

}  // namespace
}  // namespace underfoot::testing
