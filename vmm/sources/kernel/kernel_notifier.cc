#include "vmm/sources/kernel/kernel_notifier.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "vmm/base/errno_status.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

// Bounds the lag. A wake-up for each record would delay the thread that makes the change.
constexpr int kPeriodMs = 2;
// After this time without a record, the next one wakes the thread by itself: 500 wake-ups a second would
// take a vCPU off its CPU for nothing.
constexpr int64_t kQuietNs = 64'000'000;
// By when a change of one record is over, as a rule.
constexpr int64_t kChangeEndsNs = 10'000'000;
// A DAMON thread ages pages without end; its records must not displace those of other changes.
constexpr int64_t kAgeReportNs = 10'000'000;

HvaRange ClippedTo(HvaRange ram, HvaRange range) { return RoundOutToPages(range).Intersect(ram); }

}  // namespace

KernelNotifier::KernelNotifier(Mmu& mmu, OwnChanges& own_changes, HvaRange ram, Open open,
                               KernelNotifierOptions options)
    : mmu_(mmu),
      own_changes_(own_changes),
      ram_(ram),
      open_(std::move(open)),
      options_(std::move(options)) {}

KernelNotifier::~KernelNotifier() { Stop(); }

absl::Status KernelNotifier::Start() {
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return ErrnoStatus(errno, "eventfd for the kernel notifier");
  {
    absl::MutexLock lock(&mutex_);
    state_ = State::kOpening;
  }
  absl::Status started = StartThread(thread_, "the kernel notifier", [this] { Main(); });
  if (!started.ok()) {
    absl::MutexLock lock(&mutex_);
    why_not_ = started;
    state_ = State::kUnavailable;
  }
  return started;
}

absl::Status KernelNotifier::WaitUntilOpen() {
  const auto decided = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return state_ != State::kOpening;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&decided));
  if (state_ == State::kNotStarted) return absl::FailedPreconditionError("not asked for");
  return why_not_;
}

void KernelNotifier::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  static_cast<void>(eventfd_write(wake_.get(), 1));
  thread_.join();
}

bool KernelNotifier::Drain() {
  absl::MutexLock lock(&mutex_);
  if (state_ != State::kOpen) return false;
  const uint64_t mine = ++drains_wanted_;
  static_cast<void>(eventfd_write(wake_.get(), 1));
  const auto done = [this, mine]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return drains_done_ >= mine || state_ != State::kOpen;
  };
  mutex_.Await(absl::Condition(&done));
  return drains_done_ >= mine;
}

bool KernelNotifier::enabled() const {
  absl::MutexLock lock(&mutex_);
  return state_ == State::kOpen;
}

bool KernelNotifier::Invalidate(const Invalidation& invalidation) {
  own_changes_.Announce(invalidation.range);
  return false;
}

void KernelNotifier::Main() {
  NameThisThread("kernel-notifier");
  absl::StatusOr<std::unique_ptr<KernelRecordSource>> source = open_();
  if (!source.ok()) {
    absl::MutexLock lock(&mutex_);
    why_not_ = source.status();
    state_ = State::kUnavailable;
    return;
  }
  RaiseThisThread();  // not before: to open the source takes long, and the guest is starting
  mmu_.notifier().Register(*this);
  if (options_.open_sink) options_.open_sink();
  {
    absl::MutexLock lock(&mutex_);
    state_ = State::kOpen;
  }
  if (options_.removals != nullptr) options_.removals->ExpectRecords(true);
  Serve(**source);
  if (options_.removals != nullptr) options_.removals->ExpectRecords(false);
  mmu_.notifier().Unregister(*this);
}

void KernelNotifier::Serve(KernelRecordSource& source) {
  std::vector<pollfd> fds;
  quiet_since_ns_ = MonotonicNs();
  int timeout_ms = kPeriodMs;
  for (bool stop = false; !stop;) {
    fds.assign({{wake_.get(), POLLIN, 0}});
    for (const int fd : source.fds()) fds.push_back({fd, POLLIN, 0});
    static_cast<void>(poll(fds.data(), fds.size(), timeout_ms));
    eventfd_t ignored = 0;
    static_cast<void>(eventfd_read(wake_.get(), &ignored));
    uint64_t wanted = 0;
    {
      absl::MutexLock lock(&mutex_);
      stop = stop_;
      wanted = drains_wanted_;
      if (wanted != drains_done_) source.LookForCpus();
    }
    const bool quiet = !TakeAll(source) && again_.empty() &&
                       (options_.removals == nullptr || options_.removals->None());
    timeout_ms = NextTimeoutMs(source, quiet);
    absl::MutexLock lock(&mutex_);
    drains_done_ = wanted;
    if (stop) state_ = State::kStopped;
  }
  DropAgain(INT64_MAX);
}

int KernelNotifier::NextTimeoutMs(KernelRecordSource& source, bool quiet) {
  const int64_t now_ns = MonotonicNs();
  if (!quiet) {
    quiet_since_ns_ = now_ns;
    if (woken_by_record_) static_cast<void>(source.WakeAtOnce(false));
    woken_by_record_ = false;
    return kPeriodMs;
  }
  if (woken_by_record_) return options_.quiet_period_ms;
  if (now_ns - quiet_since_ns_ < kQuietNs) return kPeriodMs;
  quiet_since_ns_ = now_ns;  // so that a source that cannot is asked seldom
  woken_by_record_ = source.WakeAtOnce(true);
  return woken_by_record_ ? 0 : kPeriodMs;  // 0: a record may have come just before
}

bool KernelNotifier::TakeAll(KernelRecordSource& source) {
  KernelBatch batch;
  source.Read(batch);
  const bool lost = batch.lost != 0 || batch.overrun;
  lost_.Add(batch.lost);
  if (lost) Resynchronize();
  if (lost && options_.removals != nullptr) options_.removals->RecordsLost();
  for (const KernelRecord& record : batch.records) {
    const HvaRange pages = ClippedTo(ram_, record.range);
    if (pages.empty()) continue;
    records_.Add();
    if (record.kind == KernelRecord::Kind::kUnmap) {
      TakeUnmap(record, pages);
    } else {
      TakeAge(record, pages);
    }
  }
  CompleteRemovals();
  DropAgain(MonotonicNs());
  return lost || !batch.records.empty();
}

// The record stands at the start of the zap, under mmap_lock.
void KernelNotifier::CompleteRemovals() {
  if (options_.removals == nullptr || options_.removal_records == nullptr) return;
  const std::vector<RemovalRecords::Removal> recorded = options_.removal_records->TakeRecorded();
  if (recorded.empty()) return;
  options_.wait_for_mmap_lock();
  for (const RemovalRecords::Removal& removal : recorded) {
    options_.removals->Complete(removal.range, removal.read_ns);
  }
}

bool KernelNotifier::Known(const KernelRecord& record, HvaRange pages, HostCause task) {
  const bool in_flight = mmu_.in_flight().FindOverlap(pages).has_value();
  if (own_changes_.Made(record.tid, pages, record.time_ns, in_flight)) return true;
  if (options_.removal_records == nullptr) return false;
  const bool may_be_zap = options_.removals != nullptr && !IsKernelThread(task);
  return options_.removal_records->Explains(pages, record.time_ns, may_be_zap);
}

void KernelNotifier::TakeUnmap(const KernelRecord& record, HvaRange pages) {
  unmaps_.Add();
  const TaskNames::Task task = tasks_.Find(record.tid, MonotonicNs());
  HostEvent event;
  event.source = EventSource::kKernel;
  event.change = HostChange::kUnmap;
  event.range = pages;
  event.happened_ns = record.time_ns;
  event.tid = record.tid;
  event.task = task.name;
  event.cause = CauseOf(task.cause, record.range);
  event.known = Known(record, pages, task.cause);
  if (event.known) {
    known_.Add();
  } else {
    foreign_.Add();
    event.invalidated = DropForeign(pages);
    again_.push_back({pages, MonotonicNs() + kChangeEndsNs});
  }
  event.taken_ns = MonotonicNs();
  if (!event.known) causes_[static_cast<size_t>(event.cause)].Add();
  const int64_t lag_ns = std::max<int64_t>(0, event.taken_ns - record.time_ns);
  lag_us_.Record(static_cast<uint64_t>(lag_ns) / 1000);
  Report(event);
}

void KernelNotifier::TakeAge(const KernelRecord& record, HvaRange pages) {
  ages_.Add();
  if (record.kind == KernelRecord::Kind::kAge) MakeOld(pages);
  if (record.time_ns < next_age_report_ns_) return;
  next_age_report_ns_ = record.time_ns + kAgeReportNs;
  HostEvent event;
  event.source = EventSource::kKernel;
  event.change = HostChange::kAge;
  event.range = pages;
  event.happened_ns = record.time_ns;
  event.taken_ns = MonotonicNs();
  event.tid = record.tid;
  event.task = tasks_.Find(record.tid, event.taken_ns).name;
  Report(event);
}

// The kernel has cleared the accessed bit of these pages, so we clear ours too: young means that a
// page was accessed since the last query, by the kernel or by us.
void KernelNotifier::MakeOld(HvaRange pages) {
  if (!mmu_.notifier().TestClearYoung(pages, false)) return;
  for (Hva page = pages.begin; page < pages.end; page += kPageSize) {
    if (!mmu_.notifier().TestClearYoung(PageRangeOf(page), true)) continue;
    if (options_.young_sink) options_.young_sink(page);
  }
}

void KernelNotifier::Resynchronize() {
  resyncs_.Add();
  HostEvent event;
  event.source = EventSource::kKernel;
  event.change = HostChange::kLostRecords;
  event.range = ram_;
  event.happened_ns = MonotonicNs();
  event.invalidated = DropForeign(ram_);
  again_.push_back({ram_, event.happened_ns + kChangeEndsNs});
  event.taken_ns = MonotonicNs();
  Report(event);
}

// Returns whether there was a translation.
bool KernelNotifier::Drop(HvaRange pages) {
  const InvalidationScope bracket(mmu_.notifier(), {pages, InvalidationKind::kUnmap});
  if (bracket.found()) invalidated_.Add();
  return bracket.found();
}

bool KernelNotifier::DropForeign(HvaRange pages) {
  const bool found = Drop(pages);
  if (options_.foreign_changes != nullptr) options_.foreign_changes->Note(pages);
  return found;
}

void KernelNotifier::Report(const HostEvent& event) const {
  if (options_.sink != nullptr) options_.sink->Report(event);
}

void KernelNotifier::DropAgain(int64_t now_ns) {
  while (!again_.empty() && again_.front().due_ns <= now_ns) {
    static_cast<void>(Drop(again_.front().range));
    again_.pop_front();
  }
}

KernelStats KernelNotifier::Stats() const {
  KernelStats stats;
  {
    absl::MutexLock lock(&mutex_);
    stats.enabled = state_ == State::kOpen || state_ == State::kStopped;
    stats.why_not = state_ == State::kNotStarted ? "not asked for"
                    : state_ == State::kOpening  ? "still being opened"
                                                 : std::string(why_not_.message());
  }
  stats.records = records_.Get();
  stats.unmaps = unmaps_.Get();
  stats.ages = ages_.Get();
  stats.known = known_.Get();
  stats.foreign = foreign_.Get();
  stats.invalidated = invalidated_.Get();
  stats.lost = lost_.Get();
  stats.resyncs = resyncs_.Get();
  for (size_t i = 0; i < kHostCauses; ++i) stats.causes[i] = causes_[i].Get();
  stats.lag_us = lag_us_.Snapshot();
  return stats;
}

}  // namespace underfoot
