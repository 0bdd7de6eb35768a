#include "vmm/dirty/dirty_collector.h"

#include <utility>

#include "absl/status/statusor.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

void AddTo(std::vector<uint64_t>& all, const std::vector<uint64_t>& words) {
  for (size_t i = 0; i < words.size(); ++i) all[i] |= words[i];
}

uint64_t CountIn(const DirtyBitmap& pages, GfnRange range) {
  uint64_t count = 0;
  for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) count += pages.Contains(gfn.value) ? 1 : 0;
  return count;
}

}  // namespace

DirtyCollector::DirtyCollector(const GuestMemory& memory, Mmu& mmu, Vm& vm,
                               const GuestReports& reports, absl::Duration period)
    : memory_(memory),
      mmu_(mmu),
      vm_(vm),
      period_(period),
      check_(memory, reports),
      last_(DirtyBitmap::WordsFor(memory.bytes() >> kPageShift)),
      waiting_(last_.size()),
      last_ended_(MonotonicNow()) {
  stats_.enabled = true;
  stats_.kvm = vm.clears_dirty_log_apart() ? "bitmap, cleared by a call of its own"
                                           : "bitmap, cleared when it is read";
  stats_.period_us = static_cast<uint64_t>(absl::ToInt64Microseconds(period));
}

DirtyCollector::~DirtyCollector() { Stop(); }

absl::Status DirtyCollector::Start() {
  return thread_.Start("the dirty log", [this] { Main(); });
}

void DirtyCollector::Main() {
  NameThisThread("dirty-log");
  while (thread_.Sleep(period_)) {
    // A failure is counted, and the next collection has its pages.
    static_cast<void>(Collect());
  }
}

absl::Status DirtyCollector::Collect() {
  const absl::Duration began = MonotonicNow();
  check_.Before();
  const absl::StatusOr<RamLog::Collection> collected = memory_.log()->Collect(
      mmu_, [this](uint32_t slot, uint64_t pages) { return vm_.TakeDirtyLog(slot, pages); });
  if (!collected.ok()) {
    absl::MutexLock lock(&mutex_);
    ++stats_.failures;
    return collected.status();
  }
  check_.After(collected->pages);
  const absl::Duration ended = MonotonicNow();
  absl::MutexLock lock(&mutex_);
  ++stats_.collections;
  stats_.collect_us = static_cast<uint64_t>(absl::ToInt64Microseconds(ended - began));
  stats_.pages += collected->pages.count();
  stats_.from_kvm += collected->from_kvm;
  stats_.from_memslots += collected->from_memslots;
  stats_.from_ram += collected->from_ram;
  last_ = collected->pages.words();
  AddTo(waiting_, last_);
  last_ended_ = ended;
  return absl::OkStatus();
}

DirtyInfo DirtyCollector::Info() const {
  DirtyInfo info;
  std::vector<uint64_t> last;
  std::vector<uint64_t> waiting;
  {
    absl::MutexLock lock(&mutex_);
    info.period_us = stats_.period_us;
    info.collections = stats_.collections;
    info.age_us = static_cast<uint64_t>(absl::ToInt64Microseconds(MonotonicNow() - last_ended_));
    last = last_;
    waiting = waiting_;
  }
  const DirtyBitmap in_last(std::move(last));
  const DirtyBitmap in_waiting(std::move(waiting));
  for (const RamSlot& slot : memory_.slots()) {
    const GfnRange range{GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)};
    info.slots.push_back({slot.id, range, CountIn(in_last, range), CountIn(in_waiting, range)});
  }
  return info;
}

DirtyPages DirtyCollector::Take() {
  std::vector<uint64_t> none(DirtyBitmap::WordsFor(memory_.bytes() >> kPageShift));
  absl::MutexLock lock(&mutex_);
  DirtyBitmap taken(std::exchange(waiting_, std::move(none)));
  stats_.taken += taken.count();
  return {.collections = stats_.collections,
          .pages = memory_.bytes() >> kPageShift,
          .words = taken.words()};
}

void DirtyCollector::GiveBack(const DirtyPages& pages) {
  absl::MutexLock lock(&mutex_);
  AddTo(waiting_, pages.words);
  stats_.given_back += DirtyBitmap(pages.words).count();
}

DirtyLogStats DirtyCollector::Stats() const {
  DirtyLogStats stats;
  {
    absl::MutexLock lock(&mutex_);
    stats = stats_;
    stats.waiting = DirtyBitmap(waiting_).count();
  }
  stats.checked = check_.checked();
  stats.missed = check_.missed();
  stats.needless = check_.needless();
  return stats;
}

}  // namespace underfoot
