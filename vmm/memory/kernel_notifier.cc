#include "vmm/memory/kernel_notifier.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "mmu/mutant.h"
#include "vmm/thread_priority.h"

namespace underfoot {
namespace {

// Bounds the lag. A wake-up for each record would cost whoever makes the change 10 us.
constexpr int kPeriodMs = 2;
// By when a change of one record is over, as a rule.
constexpr int64_t kChangeEndsNs = 10'000'000;
// How long after userfaultfd told of a removal its record may be stamped. One that comes later is
// foreign, which costs an invalidation.
constexpr int64_t kRemovalNs = 50'000'000;
constexpr size_t kRemovalsKept = 512;
constexpr size_t kEventsPerLook = 4096;
// A DAMON thread ages pages without end; the log is for everybody.
constexpr int64_t kAgeReportNs = 10'000'000;

HvaRange ClippedTo(HvaRange ram, HvaRange told) { return RoundOutToPages(told).Intersect(ram); }

}  // namespace

KernelNotifier::KernelNotifier(Mmu& mmu, EventLog& log, HvaRange ram, Open open)
    : mmu_(mmu), log_(log), ram_(ram), open_(std::move(open)) {}

KernelNotifier::~KernelNotifier() { Stop(); }

absl::Status KernelNotifier::Start() {
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return absl::ErrnoToStatus(errno, "eventfd for the kernel notifier");
  {
    absl::MutexLock lock(&mutex_);
    state_ = State::kOpening;
  }
  thread_ = std::thread([this] { Main(); });
  return absl::OkStatus();
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
  RaiseThisThread();
  absl::StatusOr<std::unique_ptr<KernelRecordSource>> source = open_();
  if (!source.ok()) {
    absl::MutexLock lock(&mutex_);
    why_not_ = source.status();
    state_ = State::kUnavailable;
    return;
  }
  mmu_.notifier().Register(*this);
  {
    absl::MutexLock lock(&mutex_);
    state_ = State::kOpen;
  }
  if (evidence_.settling != nullptr) evidence_.settling->ExpectRecords(true);
  Serve(**source);
  if (evidence_.settling != nullptr) evidence_.settling->ExpectRecords(false);
  mmu_.notifier().Unregister(*this);
}

void KernelNotifier::Serve(KernelRecordSource& source) {
  std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
  for (const int fd : source.fds()) fds.push_back({fd, POLLIN, 0});
  for (bool stop = false; !stop;) {
    static_cast<void>(poll(fds.data(), fds.size(), kPeriodMs));
    eventfd_t ignored = 0;
    static_cast<void>(eventfd_read(wake_.get(), &ignored));
    uint64_t wanted = 0;
    {
      absl::MutexLock lock(&mutex_);
      stop = stop_;
      wanted = drains_wanted_;
    }
    TakeAll(source);
    absl::MutexLock lock(&mutex_);
    drains_done_ = wanted;
    if (stop) state_ = State::kStopped;
  }
  DropAgain(INT64_MAX);
}

void KernelNotifier::TakeAll(KernelRecordSource& source) {
  KernelBatch batch;
  source.Read(batch);
  LearnRemovals();
  const bool lost = batch.lost != 0 || batch.overrun;
  lost_.Add(batch.lost);
  if (lost && !UNDERFOOT_MUTANT("lost-record-without-resync")) Resynchronize();
  if (lost && evidence_.settling != nullptr) evidence_.settling->RecordsLost();
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
  TellPassed();
  DropAgain(MonotonicNs());
}

// The record stands at the start of the zap, under mmap_lock.
void KernelNotifier::TellPassed() {
  if (passed_.empty()) return;
  if (!UNDERFOOT_MUTANT("passed-without-mmap-lock")) evidence_.wait();
  for (const Removal& removal : passed_) {
    evidence_.settling->Passed(removal.range, removal.happened_ns);
  }
  passed_.clear();
}

// Not those that a hook of ours caused: they are recognized by its announcement.
void KernelNotifier::LearnRemovals() {
  for (;;) {
    const std::vector<NumberedEvent> events = log_.Since(next_event_, kEventsPerLook);
    for (const NumberedEvent& event : events) {
      const HostChange change = event.event.change;
      const bool removes = change == HostChange::kDiscard || change == HostChange::kUnmap ||
                           change == HostChange::kRemap;
      if (event.event.source != EventSource::kUffd || event.event.known || !removes) continue;
      const HvaRange range = RoundOutToPages(event.event.range);
      removals_.push_back({range, event.event.happened_ns, range.size()});
      TakeEvidence(removals_.back());
      if (removals_.size() > kRemovalsKept) removals_.pop_front();
    }
    if (events.empty()) return;
    next_event_ = events.back().number + 1;
  }
}

// By a record that was taken before the removal was known.
void KernelNotifier::TakeEvidence(const Removal& removal) {
  const HvaRange pages = ClippedTo(ram_, removal.range);
  const auto record =
      std::find_if(unclaimed_.begin(), unclaimed_.end(), [&](const KernelRecord& unclaimed) {
        return unclaimed.range == pages && removal.happened_ns <= unclaimed.time_ns;
      });
  if (record == unclaimed_.end() || UNDERFOOT_MUTANT("early-record-is-no-evidence")) return;
  unclaimed_.erase(record);
  passed_.push_back(removal);
}

bool KernelNotifier::Known(const KernelRecord& record, HvaRange pages, HostCause task) {
  const bool in_flight = mmu_.in_flight().FindOverlap(pages).has_value();
  if (own_changes_.Made(record.tid, pages, record.time_ns, in_flight)) return true;
  return !UNDERFOOT_MUTANT("kernel-recognizes-nothing") && OfRemoval(record, pages, task);
}

bool KernelNotifier::OfRemoval(const KernelRecord& record, HvaRange pages, HostCause task) {
  const auto explains = [&](const Removal& r) {
    return r.range.Contains(pages) && r.bytes_left >= pages.size() &&
           r.happened_ns >= record.time_ns - kRemovalNs;
  };
  const auto is_it = [&](const Removal& r) {
    return explains(r) && ClippedTo(ram_, r.range) == pages && r.happened_ns <= record.time_ns;
  };
  // What a kernel thread does is no removal.
  const bool evidence = evidence_.settling != nullptr && !IsKernelThread(task);
  auto removal = std::find_if(removals_.begin(), removals_.end(), is_it);
  if (removal != removals_.end()) {
    if (evidence) passed_.push_back(*removal);
  } else {
    removal = std::find_if(removals_.begin(), removals_.end(), explains);
    if (removal == removals_.end()) {
      if (evidence) unclaimed_.push_back({record.kind, pages, record.time_ns, record.tid});
      if (unclaimed_.size() > kRemovalsKept) unclaimed_.pop_front();
      return false;
    }
  }
  if (!UNDERFOOT_MUTANT("kernel-removal-explains-twice")) removal->bytes_left -= pages.size();
  return true;
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
    event.invalidated = Drop(pages);
    if (!UNDERFOOT_MUTANT("kernel-drops-once")) {
      again_.push_back({pages, MonotonicNs() + kChangeEndsNs});
    }
  }
  event.taken_ns = MonotonicNs();
  if (!event.known || UNDERFOOT_MUTANT("kernel-counts-known-causes")) {
    causes_[static_cast<size_t>(event.cause)].Add();
  }
  const int64_t lag_ns = std::max<int64_t>(0, event.taken_ns - record.time_ns);
  lag_us_.Record(static_cast<uint64_t>(lag_ns) / 1000);
  log_.Report(event);
}

void KernelNotifier::TakeAge(const KernelRecord& record, HvaRange pages) {
  ages_.Add();
  if (age_sink_) age_sink_(pages, record.time_ns);
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
  log_.Report(event);
}

// What the kernel has made old is old to us too: young means since the last who asked.
void KernelNotifier::MakeOld(HvaRange pages) {
  if (UNDERFOOT_MUTANT("kernel-age-clears-nothing")) return;
  if (!mmu_.notifier().TestClearYoung(pages, false)) return;
  for (Hva page = pages.begin; page < pages.end; page += kPageSize) {
    if (!mmu_.notifier().TestClearYoung(PageRangeOf(page), true)) continue;
    if (young_sink_ && !UNDERFOOT_MUTANT("kernel-age-forgets-young")) young_sink_(page);
  }
}

void KernelNotifier::Resynchronize() {
  resyncs_.Add();
  HostEvent event;
  event.source = EventSource::kKernel;
  event.change = HostChange::kLostRecords;
  event.range = ram_;
  event.happened_ns = MonotonicNs();
  event.invalidated = Drop(ram_);
  again_.push_back({ram_, event.happened_ns + kChangeEndsNs});
  event.taken_ns = MonotonicNs();
  log_.Report(event);
}

// True when there was a translation.
bool KernelNotifier::Drop(HvaRange pages) {
  if (UNDERFOOT_MUTANT("kernel-drops-nothing")) return false;
  BracketToken token = mmu_.notifier().Begin({pages, InvalidationKind::kUnmap});
  const bool found = token.found();
  mmu_.notifier().End(token);
  if (found) invalidated_.Add();
  return found;
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
