#include "vmm/sources/uffd/handler_thread.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/sync_point.h"
#include "vmm/base/cpus.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

// To ask for the CPU of a thread takes about as long as a fault. So few do not move the 99th of a
// hundred.
constexpr uint64_t kFaultsPerCpuSample = 256;

Hva FaultingPage(const uffd_msg& message) { return PageOf(Hva{message.arg.pagefault.address}); }

bool IsFault(const uffd_msg& message) { return message.event == UFFD_EVENT_PAGEFAULT; }

}  // namespace

HandlerThread::HandlerThread(HandlerContext& shared, HandlerPlace place)
    : shared_(shared), place_(std::move(place)) {
  UNDERFOOT_CHECK(place_.messages <= kMostMessages, "too many messages at once", place_.messages,
                  kMostMessages);
}

absl::Status HandlerThread::Start() {
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return ErrnoStatus(errno, "eventfd for a handler of userfaultfd");
  stop_.store(false, kRelease);  // another handler may not have started the last time
  return StartThread(thread_, absl::StrCat("fault handler ", place_.index), [this] { Main(); });
}

void HandlerThread::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, kRelease);
  static_cast<void>(eventfd_write(wake_.get(), 1));
}

void HandlerThread::Join() {
  if (thread_.joinable()) thread_.join();
}

void HandlerThread::WakeIfBlocked() {
  if (blocked_count_.load(kRelaxed) != 0) static_cast<void>(eventfd_write(wake_.get(), 1));
}

void HandlerThread::Main() {
  if (place_.cpus.empty()) {
    NameThisThread("uffd-monitor");
    RaiseThisThread();
  } else {
    NameThisThread(absl::StrCat("uffd-", place_.index).c_str());
    PinThisThread(place_.cpus);
    BatchThisThread();
  }
  Reader reader(shared_.mmu.readers());
  HandlerBackOff back_off(shared_.listening);
  bool more = false;
  while (!stop_.load(kAcquire)) {
    // The thread of a fault often runs, and faults again, as soon as its page is there, before its
    // handler on the same CPU continues: then the next message waits already.
    const bool try_at_once = more && !place_.cpus.empty();
    readable_ = false;
    if (!try_at_once) WaitForWork(back_off);
    more = ReadAndServe(reader, back_off);
    // In turns: a queue that never runs empty must not starve those that were put off.
    RetryDeferred(reader);
    if (!more) shared_.resolver.BringIn(reader, ahead_);
  }
}

// Never by a read that blocks: then the word would be odd while the thread sleeps.
void HandlerThread::WaitForWork(HandlerBackOff& back_off) {
  // A fork event that waits for a descriptor keeps userfaultfd readable: it is looked at again,
  // as a deferred fault is, and not without a pause.
  std::array<pollfd, 2> fds{
      {{fork_waits_ || back_off.backs_off() ? -1 : shared_.uffd.fd(), POLLIN, 0},
       {wake_.get(), POLLIN, 0}}};
  std::optional<int64_t> next_ns = back_off.until_ns();
  if (fork_waits_) next_ns = std::min(next_ns.value_or(fork_retry_ns_), fork_retry_ns_);
  for (const UffdFault& fault : deferred_) {
    next_ns = std::min(next_ns.value_or(fault.retry.due_ns()), fault.retry.due_ns());
  }
  if (!ahead_.last.empty()) next_ns = 0;
  const int64_t wait_ns = next_ns.has_value() ? std::max(*next_ns - MonotonicNs(), int64_t{0}) : 0;
  const timespec timeout = absl::ToTimespec(absl::Nanoseconds(wait_ns));
  static_cast<void>(
      ppoll(fds.data(), fds.size(), next_ns.has_value() ? &timeout : nullptr, nullptr));
  back_off.Listen();
  readable_ = fds[0].revents != 0;
  if (readable_) UNDERFOOT_SYNC_POINT("handler-woken");
  eventfd_t ignored = 0;
  if (fds[1].revents != 0) static_cast<void>(eventfd_read(wake_.get(), &ignored));
}

// One read, and what it gave. Returns false if that has emptied the queue.
bool HandlerThread::ReadAndServe(const Reader& reader, HandlerBackOff& back_off) {
  std::array<uffd_msg, kMostMessages> buffer;
  const UffdEventHandler::Before before = shared_.events.NoteBeforeRead();
  EventReads::Scope reading(shared_.reads, place_.index);
  const absl::StatusOr<size_t> n = shared_.uffd.Read(std::span(buffer).first(place_.messages));
  if (absl::IsResourceExhausted(n.status())) {
    NoteForkWaits(true);
    fork_retry_ns_ = MonotonicNs() + RetryTime::kLongestNs;
    return false;
  }
  UNDERFOOT_CHECK(n.ok(), "userfaultfd cannot be read", shared_.uffd.fd(), n.status().raw_code());
  const std::span<const uffd_msg> messages(buffer.data(), *n);
  NoteRead(back_off, !messages.empty());
  // Faults are read before events, so a read that gave faults only says nothing of the fork.
  const bool fork_read = std::any_of(messages.begin(), messages.end(), [](const uffd_msg& message) {
    return message.event == UFFD_EVENT_FORK;
  });
  if (messages.empty() || fork_read) NoteForkWaits(false);
  // The kernel hands out faults before events, whichever came first: events are applied first here.
  CountReordered(messages);
  for (const uffd_msg& message : messages) {
    if (IsFault(message)) continue;
    UNDERFOOT_SYNC_POINT("event-read");
    shared_.events.Apply(message, before);
  }
  reading.End();
  for (const uffd_msg& message : messages) {
    if (IsFault(message)) TakeFault(reader, message);
  }
  return *n == place_.messages;
}

// A handler that has something to do apart from messages does not back off.
void HandlerThread::NoteRead(HandlerBackOff& back_off, bool found) {
  if (found) return back_off.FoundMessage();
  if (!readable_ || fork_waits_ || !deferred_.empty() || !ahead_.last.empty()) return;
  UNDERFOOT_SYNC_POINT("handler-woken-spuriously");
  if (back_off.WokenSpuriously(MonotonicNs())) UNDERFOOT_SYNC_POINT("handler-backs-off");
}

// While one handler tries to read the event, another finds nothing to read, and comes back later.
void HandlerThread::NoteForkWaits(bool waits) {
  if (std::exchange(fork_waits_, waits) == waits) return;
  if (!waits) {
    shared_.met_fork_that_waits.fetch_sub(1, kRelaxed);
  } else if (shared_.met_fork_that_waits.fetch_add(1, kRelaxed) == 0) {
    shared_.fork_waits_count.Add();
  }
}

// Of the faults that this handler has read.
void HandlerThread::CountReordered(std::span<const uffd_msg> messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].event != UFFD_EVENT_REMOVE) continue;
    const HvaRange range = UffdEventHandler::RemovedRange(messages[i]);
    for (const uffd_msg& earlier : messages.first(i)) {
      if (IsFault(earlier) && range.Contains(FaultingPage(earlier))) counters_.reordered.Add();
    }
    for (const UffdFault& fault : deferred_) {
      if (range.Contains(fault.page)) counters_.reordered.Add();
    }
  }
}

// Before the fault is resolved: the kernel may move the thread when it is woken.
void HandlerThread::SampleCpu(const uffd_msg& message) {
  if (faults_++ % kFaultsPerCpuSample != 0) return;
  const std::optional<int> cpu = CpuOfThread(static_cast<int32_t>(message.arg.pagefault.feat.ptid));
  if (!cpu.has_value()) return;
  counters_.cpu_samples.Add();
  if (*cpu != CpuOfThisThread()) counters_.crossed_cpus.Add();
}

void HandlerThread::TakeFault(const Reader& reader, const uffd_msg& message) {
  const uint64_t flags = message.arg.pagefault.flags;
  UffdFault fault;
  fault.page = FaultingPage(message);
  fault.write_protected = (flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
  fault.access = fault.write_protected || (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0 ? Access::kWrite
                                                                                   : Access::kRead;
  fault.minor = (flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
  fault.alone = fault.write_protected;
  fault.read_ns = MonotonicNs();
  (fault.write_protected ? counters_.wp : fault.minor ? counters_.minor : counters_.missing).Add();
  SampleCpu(message);
  using Attempt = FaultResolver::Attempt;
  if (shared_.resolver.TryResolve(reader, fault, ahead_) == Attempt::kResolved) return;
  fault.alone = true;  // what stood in its way would stand in the others'
  fault.retry.PutOff(MonotonicNs());
  counters_.put_off.Add();
  deferred_.push_back(fault);
  NoteDeferred();
}

bool HandlerThread::IsDue(const UffdFault& fault, int64_t now_ns) const {
  return fault.retry.due_ns() <= now_ns ||
         (fault.bracket.has_value() && !shared_.mmu.in_flight().InFlight(*fault.bracket));
}

void HandlerThread::RetryDeferred(const Reader& reader) {
  if (deferred_.empty()) return;
  using Attempt = FaultResolver::Attempt;
  const int64_t now_ns = MonotonicNs();
  size_t kept = 0;
  for (UffdFault& fault : deferred_) {
    if (IsDue(fault, now_ns)) {
      if (shared_.resolver.TryResolve(reader, fault, ahead_) == Attempt::kResolved) continue;
      fault.retry.PutOff(MonotonicNs());
    }
    deferred_[kept++] = fault;
  }
  deferred_.resize(kept);
  NoteDeferred();
}

// A fault that was put off has waited already, and each attempt may come at a bad moment again. Beside
// busy threads a handler that preempts none would make its attempts a time slice apart.
void HandlerThread::NoteDeferred() {
  if (!place_.cpus.empty() && raised_ == deferred_.empty()) {
    raised_ = !deferred_.empty();
    raised_ ? RaiseThisThread() : BatchThisThread();
  }
  const auto blocked =
      std::count_if(deferred_.begin(), deferred_.end(),
                    [](const UffdFault& fault) { return fault.bracket.has_value(); });
  blocked_count_.store(static_cast<size_t>(blocked), kRelaxed);
}

}  // namespace underfoot
