#include "vmm/devices/virtio/queue_worker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot::virtio {
namespace {

// The memory of a ring is usually away for about a millisecond. A driver may also take it away for
// good.
constexpr absl::Duration kFirstPause = absl::Microseconds(100);
constexpr absl::Duration kLongestPause = absl::Milliseconds(1);

}  // namespace

QueueWorker::QueueWorker(const Virtqueue::Parts& parts, Backend& backend, uint16_t queue,
                         const std::string& name, Sinks sinks)
    : parts_(parts),
      name_(name),
      sinks_(std::move(sinks)),
      queue_(parts, name),
      direct_(parts.mmu.direct_requests(), parts.mmu.in_flight(), parts.mmu.memslots()),
      batch_({.machine = parts_,
              .queue = queue_,
              .backend = backend,
              .direct = direct_,
              .counters = counters_,
              .let_go = attention_,
              .number = queue,
              .interrupt = sinks_.interrupt}) {}

absl::Status QueueWorker::Start() {
  kick_.Reset(eventfd(0, EFD_CLOEXEC));
  if (!kick_.valid()) return ErrnoStatus(errno, absl::StrCat("eventfd for ", name_));
  try {
    reader_.emplace(parts_.mmu.readers());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the device queue ", name_));
  }
  return StartThread(thread_, absl::StrCat("the device queue ", name_), [this] { Main(); });
}

void QueueWorker::RequestStop() {
  if (!thread_.joinable()) return;
  {
    // Under the lock: otherwise TakeOrder could find no stop and then clear the attention of this
    // one.
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    order_.reset();
    attention_.store(true, kRelease);
  }
  Wake();
}

bool QueueWorker::Stop(absl::Duration patience) {
  if (!thread_.joinable()) return true;
  RequestStop();
  if (patience != absl::InfiniteDuration()) {
    absl::MutexLock lock(&mutex_);
    if (!AwaitFor(mutex_, absl::Condition(&ended_), patience)) return false;
  }
  thread_.join();
  reader_.reset();
  return true;
}

void QueueWorker::Run(const RingLayout& layout, uint64_t features) {
  {
    absl::MutexLock lock(&mutex_);
    order_ = Order{layout, features};
  }
  Wake();
}

void QueueWorker::Quiesce() {
  {
    absl::MutexLock lock(&mutex_);
    order_.reset();
    attention_.store(true, kRelease);
  }
  Wake();
}

bool QueueWorker::quiet() const {
  absl::MutexLock lock(&mutex_);
  return !order_.has_value() && !working_;
}

void QueueWorker::Wake() {
  own_wakes_.fetch_add(1, kRelaxed);
  Kick();
}

// An eventfd is full after 2^64 - 2 kicks, and the worker empties it.
void QueueWorker::Kick() const { static_cast<void>(eventfd_write(kick_.get(), 1)); }

void QueueWorker::WaitForKick() {
  eventfd_t kicks = 0;
  while (eventfd_read(kick_.get(), &kicks) != 0 && errno == EINTR) {
  }
  // A wake that is counted before it is written may be taken off a read too early; the next read
  // makes up for it.
  const uint64_t own = own_wakes_.exchange(0, kRelaxed);
  counters_.kicks.Add(kicks > own ? kicks - own : 0);
}

void QueueWorker::PutOff() {
  absl::SleepFor(pause_);
  pause_ = std::min(2 * pause_, kLongestPause);
}

// The device serves nothing until the driver has reset it.
void QueueWorker::BeBroken() {
  sinks_.broken();
  while (!attention_.load(kAcquire)) WaitForKick();
}

// Waits for an order, and returns nullopt if the worker shall end.
std::optional<QueueWorker::Order> QueueWorker::WaitForOrder() {
  for (;; WaitForKick()) {
    absl::MutexLock lock(&mutex_);
    if (stop_) return std::nullopt;
    // What was asked for until now is part of what is read here.
    attention_.store(false, kRelaxed);
    working_ = order_.has_value();
    if (working_) return order_;
  }
}

void QueueWorker::NoteQuiet() {
  absl::MutexLock lock(&mutex_);
  working_ = false;
}

void QueueWorker::Main() {
  NameThisThread(name_.substr(0, 15).c_str());
  while (const std::optional<Order> order = WaitForOrder()) {
    queue_.Start(order->layout, order->features);
    ServeRing();
    queue_.Stop();
    NoteQuiet();
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

// An order to let go ends it between two steps. A request that is not published then gets no
// answer: a driver that resets the device needs none.
void QueueWorker::ServeRing() {
  batch_.Drop();
  shortages_in_a_row_ = 0;
  pause_ = kFirstPause;
  while (!attention_.load(kAcquire)) {
    switch (StepOrShortage()) {
      case QueueOutcome::kDone:
      case QueueOutcome::kEmpty:
        pause_ = kFirstPause;
        break;
      case QueueOutcome::kAway:
        PutOff();
        break;
      case QueueOutcome::kBroken:
        BeBroken();
        break;
    }
  }
}

QueueOutcome QueueWorker::StepOrShortage() {
  try {
    const QueueOutcome outcome = Step();
    if (outcome == QueueOutcome::kAway) counters_.away.Add();
    shortages_in_a_row_ = 0;
    return outcome;
  } catch (const std::bad_alloc&) {
    counters_.shortages.Add();
    return ++shortages_in_a_row_ < kMostShortages ? QueueOutcome::kAway : QueueOutcome::kBroken;
  }
}

QueueOutcome QueueWorker::Step() {
  if (batch_.empty()) return TakeOrSleep();
  const QueueOutcome outcome = batch_.Step(*reader_);
  // What came since the backend looked has written the eventfd: the wait returns at once.
  if (outcome == QueueOutcome::kEmpty) WaitForKick();
  return outcome;
}

QueueOutcome QueueWorker::TakeOrSleep() {
  const QueueOutcome taken = batch_.Take(*reader_);
  if (taken != QueueOutcome::kEmpty) return taken;
  const QueueOutcome enabled = queue_.EnableKicks(*reader_);
  if (enabled == QueueOutcome::kEmpty) WaitForKick();
  return enabled;
}

}  // namespace underfoot::virtio
