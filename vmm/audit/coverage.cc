#include "vmm/audit/coverage.h"

#include <algorithm>

#include "mmu/base/check.h"

namespace underfoot {
namespace {

constexpr uint64_t kEnoughOperations = 10;

CoverageResult ResultOf(const CoverageRow& row, const SourceSet& sources) {
  bool wanted = false;
  bool expected = false;
  bool owed = false;
  bool seen = false;
  bool missed = false;
  bool too_few = false;
  for (size_t i = 0; i < kEventSources; ++i) {
    const CoverageCell& cell = row.cells[i];
    seen = seen || cell.events != 0;
    if (cell.duty != Duty::kMust) continue;
    wanted = true;
    if (!sources[i]) continue;
    expected = true;
    owed = owed || cell.owed != 0;
    if (cell.events != 0 || cell.owed == 0) continue;
    // A hook reports in the thread of the operation. The other sources read the event later and
    // attribute it then.
    const bool proves =
        i == static_cast<size_t>(EventSource::kHook) || cell.owed >= kEnoughOperations;
    (proves && !cell.lost ? missed : too_few) = true;
  }
  if (row.operations == 0) return CoverageResult::kIdle;
  if (!wanted) return seen ? CoverageResult::kSeen : CoverageResult::kNothing;
  if (!expected) return CoverageResult::kUnobservable;
  if (missed) return CoverageResult::kMissed;
  if (too_few) return CoverageResult::kTooFew;
  return seen || owed ? CoverageResult::kSeen : CoverageResult::kNothing;
}

}  // namespace

uint64_t Coverage::Begin(ChurnKind kind, HvaRange range) {
  absl::MutexLock lock(&mutex_);
  churn_tids_.insert(ThisThread());
  open_.push_back({.id = next_id_,
                   .kind = kind,
                   .range = range,
                   .tid = ThisThread(),
                   .begin_ns = MonotonicNs(),
                   .owed = sources_});
  return next_id_++;
}

Coverage::Remembered& Coverage::Open(uint64_t id) {
  const auto found =
      std::find_if(open_.begin(), open_.end(), [&](const Remembered& op) { return op.id == id; });
  UNDERFOOT_CHECK(found != open_.end(), "an operation ended twice", id, next_id_);
  return *found;
}

void Coverage::SetActor(uint64_t id, int32_t tid) {
  absl::MutexLock lock(&mutex_);
  Open(id).actor = tid;
}

void Coverage::End(uint64_t id, bool declined, SourceSet reportable) {
  const int64_t now = MonotonicNs();
  absl::MutexLock lock(&mutex_);
  Remembered& operation = Open(id);
  operation.end_ns = now;
  const auto kind = static_cast<size_t>(operation.kind);
  if (!declined) operations_[kind].Add();
  for (size_t i = 0; i < kEventSources; ++i) {
    operation.owed[i] = operation.owed[i] && !declined && reportable[i];
    if (operation.owed[i]) ++owed_[kind][i];
  }
  ended_.push_back(operation);
  open_.erase(open_.begin() + (&operation - open_.data()));
  if (ended_.size() > kMostEnded) ForgetOldest();
}

// If a source has not yet reached the time of this operation, its events can no longer be matched
// with it.
void Coverage::ForgetOldest() {
  const Remembered& oldest = ended_.front();
  for (size_t i = 0; i < kEventSources; ++i) {
    if (oldest.owed[i] && reported_ns_[i] <= oldest.end_ns) {
      --owed_[static_cast<size_t>(oldest.kind)][i];
    }
  }
  ended_.pop_front();
}

bool Coverage::Remembered::MayHaveCaused(const HostEvent& event, bool of_churn) const {
  if (event.happened_ns < begin_ns || event.happened_ns - kSlackNs > end_ns) return false;
  if (!range.Overlaps(event.range) ||
      InfoOf(kind).duties[static_cast<size_t>(event.source)] == Duty::kNone) {
    return false;
  }
  // userfaultfd does not report a thread.
  if (event.tid == 0 || event.tid == tid || event.tid == actor) return true;
  return event.source != EventSource::kHook && !of_churn && LetsOthersAct(kind);
}

std::optional<ChurnKind> Coverage::CauseOf(const HostEvent& event) {
  const Remembered* cause = nullptr;
  absl::MutexLock lock(&mutex_);
  const auto source = static_cast<size_t>(event.source);
  reported_ns_[source] = std::max(reported_ns_[source], event.happened_ns);
  if (event.change == HostChange::kLostRecords) lost_records_[source] = true;
  const bool of_churn = churn_tids_.count(event.tid) != 0;
  const auto look = [&](const Remembered& op) {
    if (!op.MayHaveCaused(event, of_churn)) return;
    if (cause == nullptr || cause->LikelinessOf(event) < op.LikelinessOf(event)) cause = &op;
  };
  for (const Remembered& op : open_) look(op);
  // The operations are in the order of their ends: all earlier ones ended too early as well.
  for (auto op = ended_.rbegin(); op != ended_.rend(); ++op) {
    if (op->end_ns < event.happened_ns - kSlackNs) break;
    look(*op);
  }
  return cause == nullptr ? std::nullopt : std::optional(cause->kind);
}

void Coverage::Report(const HostEvent& event) {
  const auto source = static_cast<size_t>(event.source);
  // A part of RAM is no longer registered, so userfaultfd no longer observes every change.
  if (event.source == EventSource::kUffd && event.change == HostChange::kLostRecords) {
    SetSource(event.source, false);
  }
  const std::optional<ChurnKind> kind = CauseOf(event);
  if (!kind.has_value()) {
    others_[source].Add();
    return;
  }
  Cell& cell = cells_[static_cast<size_t>(*kind)][source];
  cell.events.Add();
  const int64_t lag_ns = std::max<int64_t>(event.taken_ns - event.happened_ns, 0);
  cell.lag_us.Record(static_cast<uint64_t>(lag_ns) / 1000);
}

void Coverage::SetSource(EventSource source, bool on) {
  absl::MutexLock lock(&mutex_);
  sources_[static_cast<size_t>(source)] = on;
}

CoverageMatrix Coverage::Matrix() const {
  CoverageMatrix matrix;
  absl::MutexLock lock(&mutex_);
  matrix.sources = sources_;
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto kind = static_cast<size_t>(info.kind);
    CoverageRow row;
    row.kind = info.kind;
    row.operations = operations_[kind].Get();
    for (size_t i = 0; i < kEventSources; ++i) {
      row.cells[i].duty = info.duties[i];
      row.cells[i].owed = owed_[kind][i];
      row.cells[i].lost = lost_records_[i];
      row.cells[i].events = cells_[kind][i].events.Get();
      row.cells[i].lag_us = cells_[kind][i].lag_us.Snapshot();
    }
    row.result = ResultOf(row, matrix.sources);
    matrix.rows.push_back(std::move(row));
  }
  for (size_t i = 0; i < kEventSources; ++i) matrix.others[i] = others_[i].Get();
  return matrix;
}

}  // namespace underfoot
