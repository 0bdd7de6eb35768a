#include "vmm/coverage/coverage.h"

#include <algorithm>

#include "mmu/check.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

constexpr uint64_t kEnoughOperations = 10;

CoverageResult Judge(const CoverageRow& row, const std::array<bool, kEventSources>& sources) {
  bool wanted = false;
  bool expected = false;
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
    if (cell.events != 0) continue;
    // Hooks see each call. The others see what became of the pages: nothing, of one that was away.
    const bool proves =
        i == static_cast<size_t>(EventSource::kHook) || row.operations >= kEnoughOperations;
    (proves ? missed : too_few) = true;
  }
  if (row.operations == 0) return CoverageResult::kIdle;
  if (!wanted) return seen ? CoverageResult::kSeen : CoverageResult::kNothing;
  if (!expected) return seen ? CoverageResult::kSeen : CoverageResult::kUnobservable;
  if (missed && !UNDERFOOT_MUTANT("coverage-forgives")) return CoverageResult::kMissed;
  return too_few ? CoverageResult::kTooFew : CoverageResult::kSeen;
}

}  // namespace

uint64_t Coverage::Begin(ChurnKind kind, HvaRange range) {
  absl::MutexLock lock(&mutex_);
  open_.push_back({.id = next_id_,
                   .kind = kind,
                   .range = range,
                   .tid = ThisThread(),
                   .begin_ns = MonotonicNs()});
  return next_id_++;
}

void Coverage::End(uint64_t id, bool declined) {
  const int64_t now = MonotonicNs();
  absl::MutexLock lock(&mutex_);
  const auto found =
      std::find_if(open_.begin(), open_.end(), [&](const Remembered& op) { return op.id == id; });
  UNDERFOOT_CHECK(found != open_.end(), "an operation ended twice", id, next_id_);
  found->end_ns = now;
  if (!declined) operations_[static_cast<size_t>(found->kind)].Add();
  ended_.push_back(*found);
  open_.erase(found);
  while (ended_.size() > kMostEnded || ended_.front().end_ns < now - kSlackNs) ended_.pop_front();
}

bool Coverage::Remembered::MayHaveCaused(const HostEvent& event) const {
  return begin_ns <= event.happened_ns && event.happened_ns - kSlackNs <= end_ns &&
         range.Overlaps(event.range) &&
         kChurnKinds[static_cast<size_t>(kind)].duties[static_cast<size_t>(event.source)] !=
             Duty::kNone;
}

std::optional<ChurnKind> Coverage::CauseOf(const HostEvent& event) {
  const Remembered* cause = nullptr;
  const auto look = [&](const Remembered& op) {
    if (!op.MayHaveCaused(event)) return;
    const bool likelier = cause == nullptr || cause->LikelinessOf(event) < op.LikelinessOf(event);
    if (likelier || UNDERFOOT_MUTANT("coverage-ignores-thread")) cause = &op;
  };
  absl::MutexLock lock(&mutex_);
  for (const Remembered& op : open_) look(op);
  for (const Remembered& op : ended_) look(op);
  return cause == nullptr ? std::nullopt : std::optional(cause->kind);
}

void Coverage::Report(const HostEvent& event) {
  const auto source = static_cast<size_t>(event.source);
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
  {
    absl::MutexLock lock(&mutex_);
    matrix.sources = sources_;
  }
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto kind = static_cast<size_t>(info.kind);
    CoverageRow row;
    row.kind = info.kind;
    row.operations = operations_[kind].Get();
    for (size_t i = 0; i < kEventSources; ++i) {
      row.cells[i].duty = info.duties[i];
      row.cells[i].events = cells_[kind][i].events.Get();
      row.cells[i].lag_us = cells_[kind][i].lag_us.Snapshot();
    }
    row.result = Judge(row, matrix.sources);
    matrix.rows.push_back(std::move(row));
  }
  for (size_t i = 0; i < kEventSources; ++i) matrix.others[i] = others_[i].Get();
  return matrix;
}

}  // namespace underfoot
