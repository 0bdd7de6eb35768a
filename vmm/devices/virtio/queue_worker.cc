#include "vmm/devices/virtio/queue_worker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot::virtio {
namespace {

// While the memory of a ring is away, usually for about a millisecond.
constexpr absl::Duration kAwayPause = absl::Microseconds(100);

}  // namespace

QueueWorker::QueueWorker(const Virtqueue::Parts& parts, Backend& backend, const std::string& name,
                         Sinks sinks)
    : parts_(parts),
      backend_(backend),
      name_(name),
      sinks_(std::move(sinks)),
      queue_(parts, name) {}

absl::Status QueueWorker::Start() {
  kick_.Reset(eventfd(0, EFD_CLOEXEC));
  if (!kick_.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("eventfd for ", name_));
  return StartThread(thread_, absl::StrCat("the device queue ", name_), [this] { Main(); });
}

void QueueWorker::Stop() {
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
  thread_.join();
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
  counters_.away.Add();
  absl::SleepFor(kAwayPause);
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
  Reader reader(parts_.mmu.readers());
  while (const std::optional<Order> order = WaitForOrder()) {
    queue_.Start(order->layout, order->features);
    ServeRing(reader);
    queue_.Stop();
    NoteQuiet();
  }
}

void QueueWorker::ServeRing(Reader& reader) {
  Chain chain;
  while (!attention_.load(kAcquire)) {
    QueueOutcome outcome = queue_.Pop(reader, chain);
    if (outcome == QueueOutcome::kDone && !Answer(reader, chain)) outcome = QueueOutcome::kBroken;
    if (outcome == QueueOutcome::kEmpty) {
      outcome = queue_.EnableKicks(reader);
      if (outcome == QueueOutcome::kEmpty) WaitForKick();
    }
    switch (outcome) {
      case QueueOutcome::kDone:
      case QueueOutcome::kEmpty:
        break;
      case QueueOutcome::kAway:
        PutOff();
        break;
      case QueueOutcome::kBroken:
        sinks_.broken();
        while (!attention_.load(kAcquire)) WaitForKick();
        break;
    }
  }
}

// False: the request cannot be answered, or its ring is lost for good.
bool QueueWorker::Answer(Reader& reader, const Chain& chain) {
  Request request(parts_.access, reader, chain, counters_, scratch_);
  const Served served = backend_.Serve(request);
  if (!served.answered) return false;
  for (;;) {
    const QueueOutcome published = queue_.Publish(reader, chain.head, served.written);
    if (published == QueueOutcome::kDone) break;
    if (published != QueueOutcome::kAway) return false;
    // A driver that resets the device gets no answer, and needs none.
    if (attention_.load(kAcquire)) return true;
    PutOff();
  }
  counters_.requests.Add();
  if (queue_.WantsInterrupt(reader)) {
    counters_.interrupts.Add();
    sinks_.interrupt();
  }
  return true;
}

}  // namespace underfoot::virtio
