#include "vmm/devices/event_pages.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/event_page.h"

namespace underfoot {
namespace {

constexpr absl::Duration kTick = absl::Microseconds(500);
constexpr unsigned kEventsPerTick = 16;  // on each page
constexpr uint64_t kTicksPerTime = 8;
// A memslot is away for about a millisecond.
constexpr absl::Duration kFirstPause = absl::Microseconds(100);
constexpr absl::Duration kLongestPause = absl::Milliseconds(1);

enum class PageState : uint8_t { kFree, kPlaced, kOpen, kQuiet, kClosed };

// The second number of the file: how long the thread was able to run and had no CPU, in ns.
uint64_t StealOf(const UniqueFd& schedstat, uint64_t before) {
  std::array<char, 80> text{};
  if (!schedstat.valid() || pread(schedstat.get(), text.data(), text.size() - 1, 0) <= 0) {
    return before;
  }
  const char* const second = std::strchr(text.data(), ' ');
  return second == nullptr ? before
                           : std::max<uint64_t>(before, std::strtoull(second, nullptr, 10));
}

}  // namespace

class EventPages::Service {
 public:
  // One page for the VM, then one for each vCPU.
  Service(Mmu& mmu, unsigned vcpus, uint64_t seed)
      : wake_(eventfd(0, EFD_CLOEXEC)),
        wake_error_(wake_.valid() ? 0 : errno),
        sender_reader_(mmu.readers()),
        worker_reader_(mmu.readers()),
        seed_(seed) {
    for (unsigned i = 0; i <= vcpus; ++i) {
      const std::string name = i == 0 ? "vm" : absl::StrCat("vcpu-", i - 1);
      entries_.push_back(std::make_unique<Entry>(mmu, name, [this] { Wake(); }));
    }
  }
  ~Service() { Stop(); }

  [[nodiscard]] absl::Status Start() {
    if (!wake_.valid()) return ErrnoStatus(wake_error_, "eventfd for the event pages");
    absl::Status started = StartThread(worker_, "the event pages", [this] { RunWorker(); });
    if (!started.ok()) return started;
    return StartThread(sender_, "the events", [this] { RunSender(); });
  }

  void Stop() {
    stop_.store(true, kRelease);
    Wake();
    if (sender_.joinable()) sender_.join();
    if (worker_.joinable()) worker_.join();
    for (const auto& entry : entries_) entry->page.Deactivate();
  }

  // Called by the vCPU's thread: the file is of the thread that opens it.
  void Place(unsigned page, Gpa gpa) {
    Entry& entry = *entries_[page];
    if (entry.state.load(kRelaxed) != PageState::kFree) return;
    entry.gpa = gpa;
    if (page != 0) entry.schedstat.Reset(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
    entry.state.store(PageState::kPlaced, kRelease);
    Wake();
  }
  void Close(unsigned page) { entries_[page]->closing.store(true, kRelease); }

  bool IsTaken(unsigned page) const {
    const PageState state = entries_[page]->state.load(kAcquire);
    return state != PageState::kFree && state != PageState::kClosed;
  }

  template <class Visitor>
  void ForEachPage(const Visitor& visit) const {
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = *entries_[i];
      const PageState state = entry.state.load(kAcquire);
      if (state != PageState::kFree) visit(i, InfoOf(entry, state));
    }
  }

 private:
  struct Entry {
    Entry(Mmu& mmu, const std::string& page_name, std::function<void()> wake)
        : name(page_name), page(mmu, absl::StrCat("event-", page_name), std::move(wake)) {}

    const std::string name;
    EventPage page;
    Gpa gpa;                // written before kPlaced
    UniqueFd schedstat;     // likewise
    uint64_t steal_ns = 0;  // the sender's
    // Exactly one thread makes each transition. A thread that reads a state (acquire) sees what the
    // thread that stored it (release) wrote before. Without it: the sender uses a page that the worker
    // has not activated.
    std::atomic<PageState> state{PageState::kFree};
    std::atomic<bool> closing{false};
  };

  static EventPageInfo InfoOf(const Entry& entry, PageState state) {
    EventPageInfo info{.name = entry.name, .gpa = entry.gpa};
    info.open = state != PageState::kClosed;
    // Send counts an event in both without an order, so this difference may lack some for a moment.
    info.handed_over = entry.page.handed_over();
    info.sent_fast = std::max(entry.page.sent(), info.handed_over) - info.handed_over;
    info.sent_slow = entry.page.delivered_by_work();
    info.time_updates = entry.page.time_updates();
    info.refreshes = entry.page.cache().refreshes;
    return info;
  }

  void Wake() const { static_cast<void>(eventfd_write(wake_.get(), 1)); }
  void WaitForWake() const {
    eventfd_t wakes = 0;
    while (eventfd_read(wake_.get(), &wakes) != 0 && errno == EINTR) {
    }
  }

  void RunSender() {
    NameThisThread("event-sender");
    for (uint64_t tick = 0; !stop_.load(kAcquire); ++tick) {
      for (const auto& entry : entries_) Tick(*entry, tick);
      absl::SleepFor(kTick);
    }
  }

  // Each page gets some events and the time before it is closed, also if the guest closes it at once.
  void Tick(Entry& entry, uint64_t tick) {
    if (entry.state.load(kAcquire) != PageState::kOpen) return;
    const bool closing = entry.closing.load(kAcquire);
    EventPage& page = entry.page;
    if (!closing || page.sent() == 0) {
      for (unsigned i = 0; i < kEventsPerTick; ++i) {
        const uint64_t channel = abi::Mix(seed_ + events_++) % EventPage::kChannels;
        static_cast<void>(page.Send(sender_reader_, static_cast<unsigned>(channel)));
      }
    }
    if (closing ? page.time_updates() == 0 : tick % kTicksPerTime == 0) {
      entry.steal_ns = StealOf(entry.schedstat, entry.steal_ns);
      const auto now = static_cast<uint64_t>(absl::ToInt64Nanoseconds(MonotonicNow()));
      page.WriteTime(sender_reader_, now, entry.steal_ns);
    }
    if (!closing || page.time_updates() == 0) return;
    entry.state.store(PageState::kQuiet, kRelease);
    Wake();
  }

  void RunWorker() {
    NameThisThread("event-pages");
    while (!stop_.load(kAcquire)) {
      WaitForWake();
      absl::Duration pause = kFirstPause;
      while (!stop_.load(kAcquire) && !ServeAll()) {
        absl::SleepFor(pause);
        pause = std::min(2 * pause, kLongestPause);
      }
    }
  }

  bool ServeAll() {
    bool done = true;
    for (const auto& entry : entries_) {
      try {
        done = Serve(*entry) == EventPage::Progress::kDone && done;
      } catch (const std::bad_alloc&) {
        done = false;
      }
    }
    return done;
  }

  EventPage::Progress Serve(Entry& entry) {
    using Progress = EventPage::Progress;
    switch (entry.state.load(kAcquire)) {
      case PageState::kFree:
      case PageState::kClosed:
        return Progress::kDone;
      case PageState::kPlaced:
        if (!entry.page.Activate(worker_reader_, entry.gpa).ok()) return Progress::kAway;
        entry.state.store(PageState::kOpen, kRelease);
        return Progress::kDone;
      case PageState::kOpen:
        return entry.page.Work(worker_reader_);
      case PageState::kQuiet:
        if (entry.page.Close(worker_reader_) == Progress::kAway) return Progress::kAway;
        entry.page.Deactivate();
        entry.state.store(PageState::kClosed, kRelease);
        return Progress::kDone;
    }
    return Progress::kDone;
  }

  const UniqueFd wake_;
  const int wake_error_;
  Reader sender_reader_;
  Reader worker_reader_;
  const uint64_t seed_;
  uint64_t events_ = 0;  // the sender's
  std::vector<std::unique_ptr<Entry>> entries_;
  std::atomic<bool> stop_{false};
  std::thread sender_;
  std::thread worker_;
};

EventPages::EventPages(Mmu& mmu, GfnRange ram, unsigned vcpus, uint64_t seed)
    : mmu_(mmu), ram_(ram), vcpus_(vcpus), seed_(seed) {}

EventPages::~EventPages() = default;

ExitOutcome EventPages::Access(unsigned vcpu, const PortIo& io) {
  const unsigned page = io.port == abi::kVmEventPort ? 0 : vcpu + 1;
  absl::MutexLock lock(&mutex_);
  if (!io.write) {
    std::fill(io.data.begin(), io.data.end(), std::byte{0});
    const bool taken = service_ != nullptr && service_->IsTaken(page);
    if (taken && !io.data.empty()) io.data.front() = std::byte{1};
    return ExitOutcome::kContinue;
  }
  uint32_t gfn = 0;
  if (io.data.size() != sizeof(gfn)) return ExitOutcome::kContinue;
  std::memcpy(&gfn, io.data.data(), sizeof(gfn));
  if (gfn != 0) {
    Give(page, Gfn{gfn});
  } else if (service_ != nullptr) {
    service_->Close(page);
  }
  return ExitOutcome::kContinue;
}

void EventPages::Give(unsigned page, Gfn gfn) {
  if (!ram_.Contains(gfn) || !failure_.ok()) return;
  if (service_ == nullptr) {
    try {
      auto service = std::make_unique<Service>(mmu_, vcpus_, seed_);
      failure_ = service->Start();
      if (failure_.ok()) service_ = std::move(service);
    } catch (const std::bad_alloc&) {
      failure_ = absl::ResourceExhaustedError("no memory for the event pages");
    }
  }
  if (service_ != nullptr) service_->Place(page, GpaOf(gfn));
}

void EventPages::Stop() {
  Service* service = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    service = service_.get();
  }
  // Without the lock: the worker may be in a page-in.
  if (service != nullptr) service->Stop();
}

absl::Status EventPages::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

std::vector<EventPageInfo> EventPages::Info() const {
  absl::MutexLock lock(&mutex_);
  std::vector<EventPageInfo> infos;
  if (service_ == nullptr) return infos;
  service_->ForEachPage([&](size_t, const EventPageInfo& info) { infos.push_back(info); });
  return infos;
}

EventPagesStats EventPages::Stats() const {
  absl::MutexLock lock(&mutex_);
  EventPagesStats stats;
  if (service_ == nullptr) return stats;
  service_->ForEachPage([&](size_t page, const EventPageInfo& info) {
    stats.open += info.open ? 1 : 0;
    stats.sent_fast.Set(page, info.sent_fast);
    stats.handed_over.Set(page, info.handed_over);
    stats.sent_slow.Set(page, info.sent_slow);
    stats.refreshes.Set(page, info.refreshes);
    stats.time_updates += info.time_updates;
  });
  return stats;
}

}  // namespace underfoot
