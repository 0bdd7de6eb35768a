#include "vmm/ageing/working_set.h"

#include <sys/mman.h>

#include <algorithm>
#include <span>

#include "absl/status/statusor.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/thread_priority.h"
#include "vmm/evidence/host_event.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
namespace {

// The pages of one bracket: few enough that a waiter for its end does not wait long.
constexpr uint64_t kPagesPerChunk = 512;

uint64_t Micros(int64_t ns) { return static_cast<uint64_t>(std::max<int64_t>(0, ns)) / 1000; }

HvaRange HullOf(std::span<const HvaRange> ranges) {
  return {ranges.front().begin, ranges.back().end};
}

}  // namespace

WorkingSet::WorkingSet(const GuestMemory& memory, Notifier& notifier, const Pagemap& pagemap,
                       absl::Duration period)
    : memory_(memory),
      notifier_(notifier),
      pagemap_(pagemap),
      data_{memory.slots().front().hvas().end, memory.hvas().end},
      history_(data_.size() >> kPageShift, MonotonicNs()),
      period_(period),
      entries_(kPagesPerChunk) {}

WorkingSet::~WorkingSet() { Stop(); }

absl::Status WorkingSet::Start() {
  return thread_.Start("the working set", [this] { Main(); });
}

void WorkingSet::Main() {
  NameThisThread("working-set");
  while (thread_.Sleep(period_)) Scan();
}

void WorkingSet::Scan() {
  absl::MutexLock lock(&scan_mutex_);
  const int64_t began_ns = MonotonicNs();
  for (Hva begin = data_.begin; begin < data_.end; begin += kPagesPerChunk * kPageSize) {
    ScanChunk({begin, std::min(begin + kPagesPerChunk * kPageSize, data_.end)});
  }
  const int64_t ended_ns = MonotonicNs();
  history_.Close(ended_ns);
  touched_.store(history_.Touched(0, history_.pages(), history_.Latest()), kRelaxed);
  scan_us_.store(Micros(ended_ns - began_ns), kRelaxed);
}

// Young translations are read first, because the brackets drop them.
void WorkingSet::ScanChunk(HvaRange chunk) {
  TakeYoung(chunk);
  switch (memory_.backing()) {
    case Backing::kMemfd:
      return TakePresent(chunk);
    case Backing::kAnon:
      return TakeWritten(chunk);
  }
}

void WorkingSet::TakeYoung(HvaRange chunk) {
  if (!notifier_.TestClearYoung(chunk, false)) return;
  const bool zapped = memory_.backing() == Backing::kMemfd;
  for (Hva page = chunk.begin; page < chunk.end; page += kPageSize) {
    if (zapped && history_.TouchedNow(IndexOf(page))) continue;
    if (notifier_.TestClearYoung(PageRangeOf(page), true)) Touched(page);
  }
  // The pages that the loop skipped are aged as well. They are zapped below, so a later use of such
  // a page is observed when it is faulted in.
  if (zapped) static_cast<void>(notifier_.TestClearYoung(chunk, true));
}

// Zaps the whole interval from the first present page to the last, including absent pages: one
// call, one event. A page that is faulted in between the look and the zap was recorded when it came
// in.
void WorkingSet::TakePresent(HvaRange chunk) {
  const uint64_t count = chunk.size() >> kPageShift;
  pagemap_.Read(chunk, entries_);
  HvaRange present{chunk.end, chunk.end};
  for (uint64_t i = 0; i < count; ++i) {
    if (!entries_[i].present) continue;
    const Hva page = chunk.begin + i * kPageSize;
    Touched(page);
    present = {std::min(present.begin, page), page + kPageSize};
  }
  if (present.empty()) return;
  // If a mapping is away at this moment, the rest is zapped nevertheless.
  static_cast<void>(hooked::Madvise(present, MADV_DONTNEED));
}

// First checks, without a bracket, whether there is anything to do. Writes after that check are
// found by the second check, or by the next scan.
void WorkingSet::TakeWritten(HvaRange chunk) {
  const absl::StatusOr<std::vector<HvaRange>> some = pagemap_.Written(chunk);
  if (!some.ok() || some->empty()) return;
  const absl::StatusOr<std::vector<HvaRange>> written =
      hooked::TakeWritten(pagemap_, HullOf(*some));
  if (!written.ok()) return;
  for (const HvaRange range : *written) {
    for (Hva page = range.begin; page < range.end; page += kPageSize) Touched(page);
  }
}

void WorkingSet::Touched(Hva page) {
  if (data_.Contains(page)) history_.Touch(IndexOf(page));
}

WorkingSetInfo WorkingSet::Info(std::optional<absl::Duration> window) const {
  const int64_t now_ns = MonotonicNs();
  const TouchHistory::Window periods =
      window.has_value() ? history_.Since(now_ns - absl::ToInt64Nanoseconds(*window))
                         : history_.Latest();
  WorkingSetInfo info;
  info.sees_reads = memory_.backing() == Backing::kMemfd;
  info.period_us = static_cast<uint64_t>(absl::ToInt64Microseconds(period_));
  info.scans = periods.scans;
  info.covered_us = Micros(now_ns - periods.begin_ns);
  for (const RamSlot& slot : memory_.slots()) {
    const uint64_t pages = slot.bytes >> kPageShift;
    const Gfn gfn = GfnOf(slot.gpa);
    WorkingSetSlot& answer = info.slots.emplace_back();
    answer.id = slot.id;
    answer.range = {gfn, gfn + pages};
    if (slot.hva < data_.begin) continue;
    answer.touched = history_.Touched(IndexOf(slot.hva), pages, periods);
  }
  return info;
}

bool WorkingSet::TouchedLately(Hva page) const {
  return data_.Contains(page) && history_.TouchedIn(IndexOf(page), history_.Latest());
}

WorkingSetStats WorkingSet::Stats() const {
  WorkingSetStats stats;
  stats.enabled = true;
  stats.period_us = static_cast<uint64_t>(absl::ToInt64Microseconds(period_));
  stats.scans = history_.scans();
  stats.scan_us = scan_us_.load(kRelaxed);
  stats.pages = history_.pages();
  stats.touched = touched_.load(kRelaxed);
  return stats;
}

}  // namespace underfoot
