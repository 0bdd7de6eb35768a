// The event pages of a machine against a guest in plain memory: ports, threads, and that no event is
// lost or comes twice while the page moves.

#include "vmm/devices/event_pages.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/memory/memory_test.h"
#include "tests/support/event_guest.h"
#include "tests/support/no_room_for_threads.h"
#include "tests/support/wait_until.h"
#include "vmm/devices/event_page.h"
#include "vmm/devices/platform.h"

namespace underfoot::testing {
namespace {

class EventPagesTest : public MemoryTest {
 protected:
  static constexpr unsigned kVcpus = 2;
  // Pages of the memory of the test; the guest gives them.
  static constexpr uint64_t kVmPage = 1;
  static constexpr uint64_t kVcpuPage = 2;

  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ == nullptr) return;
    StartMonitor();
    const RamSlot& slot = side().memory->slots()[2];
    const GfnRange ram{GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)};
    pages_ = std::make_unique<EventPages>(mmu(), ram, kVcpus, 3);
    platform_.emplace(kVcpus, side().memory->slots().front().hva,
                      [](unsigned, std::string_view) {});
    platform_->SetEventPages(pages_.get());
  }
  void TearDown() override {
    pages_.reset();
    MemoryTest::TearDown();
  }

  void Out(uint16_t port, uint32_t value, unsigned vcpu = 1) {
    const PortIo io{.port = port,
                    .size = 4,
                    .count = 1,
                    .write = true,
                    .data = std::as_writable_bytes(std::span(&value, 1))};
    EXPECT_EQ(platform_->OnPortIo(vcpu, io), ExitOutcome::kContinue);
  }
  uint32_t In(uint16_t port, unsigned vcpu = 1) {
    uint32_t value = 0x12345678;
    const PortIo io{.port = port,
                    .size = 4,
                    .count = 1,
                    .write = false,
                    .data = std::as_writable_bytes(std::span(&value, 1))};
    EXPECT_EQ(platform_->OnPortIo(vcpu, io), ExitOutcome::kContinue);
    return value;
  }
  void Give(uint16_t port, uint64_t page, unsigned vcpu = 1) {
    Out(port, static_cast<uint32_t>(side().GfnAt(page).value), vcpu);
  }
  EventGuest GuestOf(uint64_t page) { return EventGuest(PointerOf(side().PageAt(page))); }
  bool Sent(uint64_t events) {
    return WaitUntil([&] { return pages_->Stats().sent_fast.Total() >= events; });
  }
  // The threads of event pages.
  static unsigned Threads() {
    unsigned threads = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream(task.path() / "comm") >> name;
      threads += name.starts_with("event-") ? 1 : 0;
    }
    return threads;
  }

  std::unique_ptr<EventPages> pages_;
  std::optional<Platform> platform_;
};

TEST_P(EventPagesTest, NothingIsMadeBeforeTheGuestGivesAPage) {
  const uint64_t caches = mmu().Stats().pfn_caches.count;
  EXPECT_EQ(In(abi::kVmEventPort), 0u);
  Out(abi::kVmEventPort, 0);
  Out(abi::kVmEventPort, static_cast<uint32_t>(side().GfnAt(0).value) - 1);  // not RAM
  Out(abi::kVcpuEventPort, ~uint32_t{0});
  EXPECT_EQ(In(abi::kVcpuEventPort), 0u);
  EXPECT_TRUE(pages_->Info().empty());
  EXPECT_EQ(pages_->Stats().open, 0u);
  EXPECT_EQ(Threads(), 0u);
  EXPECT_EQ(mmu().Stats().pfn_caches.count, caches);
}

TEST_P(EventPagesTest, WithoutTheDeviceThePortsReadAsOnes) {
  platform_->SetEventPages(nullptr);
  EXPECT_EQ(In(abi::kVmEventPort), ~uint32_t{0});
  EXPECT_EQ(In(abi::kVcpuEventPort), ~uint32_t{0});
}

TEST_P(EventPagesTest, WithoutRoomForAThreadNoPageIsTaken) {
  {
    const NoRoomForThreads no_room;
    Give(abi::kVmEventPort, kVmPage);
  }
  EXPECT_EQ(In(abi::kVmEventPort), 0u);
  EXPECT_TRUE(absl::IsResourceExhausted(pages_->failure())) << pages_->failure();
  Give(abi::kVcpuEventPort, kVcpuPage);
  EXPECT_EQ(In(abi::kVcpuEventPort), 0u) << "it is not tried again";
  EXPECT_TRUE(pages_->Info().empty());
}

TEST_P(EventPagesTest, APageGetsEventsAndTheTimeUntilItIsClosed) {
  Give(abi::kVcpuEventPort, kVcpuPage);
  EXPECT_EQ(In(abi::kVcpuEventPort), 1u);
  EXPECT_EQ(In(abi::kVcpuEventPort, 0), 0u) << "of another vCPU";
  EXPECT_EQ(In(abi::kVmEventPort), 0u);
  EventGuest guest = GuestOf(kVcpuPage);
  abi::EventTime first;
  abi::EventTime later;
  ASSERT_TRUE(WaitUntil([&] { return guest.ReadTime(&first); }));
  ASSERT_TRUE(WaitUntil([&] { return guest.ReadTime(&later) && later.version > first.version; }));
  EXPECT_GT(later.ns, first.ns);
  EXPECT_GE(later.steal_ns, first.steal_ns);
  ASSERT_TRUE(Sent(100));
  Out(abi::kVcpuEventPort, 0);
  ASSERT_TRUE(WaitUntil([&] { return In(abi::kVcpuEventPort) == 0; }));
  ASSERT_TRUE(guest.closed());
  EXPECT_EQ(guest.Wrong(), 0u);
  EXPECT_EQ(mmu().Stats().pfn_caches.count, 0u);
  Give(abi::kVcpuEventPort, kVcpuPage);
  EXPECT_EQ(In(abi::kVcpuEventPort), 0u) << "a page is given once";
  const std::vector<EventPageInfo> info = pages_->Info();
  ASSERT_EQ(info.size(), 1u);
  EXPECT_EQ(info[0].name, "vcpu-1");
  EXPECT_EQ(info[0].gpa, side().GpaAt(kVcpuPage));
  EXPECT_FALSE(info[0].open);
}

TEST_P(EventPagesTest, APageThatIsClosedAtOnceStillGetsEventsAndTheTime) {
  Give(abi::kVmEventPort, kVmPage);
  Out(abi::kVmEventPort, 0);
  EventGuest guest = GuestOf(kVmPage);
  ASSERT_TRUE(WaitUntil([&] { return guest.closed(); }));
  EXPECT_GT(guest.Take(), 0u);
  EXPECT_EQ(guest.Wrong(), 0u);
  abi::EventTime time;
  EXPECT_TRUE(guest.ReadTime(&time));
}

TEST_P(EventPagesTest, StopReturnsWhileTheGuestHasAPageOpen) {
  Give(abi::kVmEventPort, kVmPage);
  ASSERT_TRUE(Sent(1));
  EXPECT_EQ(Threads(), 2u);
  pages_->Stop();
  EXPECT_EQ(Threads(), 0u);
  EXPECT_EQ(mmu().Stats().pfn_caches.count, 0u);
  EXPECT_EQ(pages_->Info().size(), 1u);
}

// Brackets come and go, the memslot goes and comes back, and the guest takes all along. It has a
// thread of its own: a fault of the guest may wait for the End of a bracket.
TEST_P(EventPagesTest, NoEventIsLostOrComesTwiceWhileThePageMoves) {
  Give(abi::kVmEventPort, kVmPage, 0);
  Give(abi::kVcpuEventPort, kVcpuPage);
  std::atomic<uint64_t> taken{0};
  std::atomic<uint64_t> wrong{0};
  std::thread guest([&] {
    EventGuest vm = GuestOf(kVmPage);
    EventGuest own = GuestOf(kVcpuPage);
    while (!vm.closed() || !own.closed()) {
      taken += vm.Take() + own.Take();
      std::this_thread::yield();
    }
    wrong = vm.Wrong() + own.Wrong();
  });
  const RamSlot& slot = side().memory->slots()[2];
  const Gfn gfn = GfnOf(slot.gpa);
  const auto handed_over = [&] { return pages_->Stats().handed_over; };
  const bool moved = WaitUntil([&] {
    for (int i = 0; i < 20; ++i) {
      const InvalidationScope bracket(mmu().notifier(),
                                      {side().Pages(0, 4), InvalidationKind::kUnmap});
    }
    EXPECT_TRUE(mmu().DeleteMemslot(slot.id).ok());
    EXPECT_TRUE(
        mmu()
            .CreateMemslot(
                {.id = slot.id, .gfns = {gfn, gfn + slot.bytes / kPageSize}, .hva = slot.hva})
            .ok());
    return handed_over().values[0] > 50 && handed_over().values[2] > 50 && taken.load() > 1000;
  });
  EXPECT_TRUE(moved) << handed_over().Total() << " handed over, " << taken.load() << " taken";
  Out(abi::kVmEventPort, 0, 0);
  Out(abi::kVcpuEventPort, 0);
  guest.join();
  EXPECT_EQ(wrong.load(), 0u);
  const EventPagesStats stats = pages_->Stats();
  EXPECT_EQ(stats.handed_over.Total(), stats.sent_slow.Total());
}

// Several senders at full speed on few channels, which the sender of a machine does not do.
TEST_P(EventPagesTest, NoEventOfSeveralSendersIsLostOrComesTwice) {
  constexpr int kSenders = 3;
  constexpr int kEvents = 20000;  // of each
  std::atomic<bool> stop{false};
  std::atomic<int> sending{kSenders};
  EventPage page(mmu(), "events", [] {});
  EventGuest guest = GuestOf(kVmPage);
  Reader reader(mmu().readers());
  ASSERT_TRUE(page.Activate(reader, side().GpaAt(kVmPage)).ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < kSenders; ++i) {
    threads.emplace_back([&] {
      Reader mine(mmu().readers());
      for (int n = 0; n < kEvents; ++n) {
        static_cast<void>(page.Send(mine, static_cast<unsigned>(n % 2)));
        if (n % 64 == 0) std::this_thread::yield();
      }
      --sending;
    });
  }
  threads.emplace_back([&] {
    while (!stop.load()) {
      const InvalidationScope bracket(mmu().notifier(),
                                      {side().Pages(kVmPage), InvalidationKind::kUnmap});
    }
  });
  threads.emplace_back([&] {
    Reader mine(mmu().readers());
    while (!stop.load()) {
      static_cast<void>(page.Work(mine));
      std::this_thread::yield();
    }
  });
  uint64_t taken = 0;
  EXPECT_TRUE(WaitUntil([&] {
    taken += guest.Take();
    return sending.load() == 0;
  }));
  // What is pending is taken; no later event makes up for a bit that was not turned.
  EXPECT_TRUE(WaitUntil([&] { return (taken += guest.Take()) == kSenders * kEvents; }))
      << taken << " taken";
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(page.Close(reader), EventPage::Progress::kDone);
  EXPECT_EQ(guest.Wrong(), 0u);
  EXPECT_EQ(page.sent(), uint64_t{kSenders} * kEvents);
  EXPECT_EQ(page.handed_over(), page.delivered_by_work());
}

UNDERFOOT_FOR_BOTH_BACKINGS(EventPagesTest);

}  // namespace
}  // namespace underfoot::testing
