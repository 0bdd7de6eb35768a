#include "vmm/evidence/foreign_changes.h"

#include <new>

#include "mmu/base/ordering.h"

namespace underfoot {

ForeignChanges::ForeignChanges(HvaRange ram, Clock now)
    : ram_(ram),
      now_(now),
      times_(static_cast<int64_t*>(std::calloc(ram.size() >> kPageShift, sizeof(int64_t)))) {
  if (times_ == nullptr && !ram.empty()) throw std::bad_alloc();
}

void ForeignChanges::Note(HvaRange pages) {
  const int64_t now = now_();
  if (pages == ram_) {
    all_ns_.store(now, kRelaxed);
    return;
  }
  for (Hva page = pages.begin; page < pages.end; page += kPageSize) {
    std::atomic_ref(times_[(page - ram_.begin) >> kPageShift]).store(now, kRelaxed);
  }
}

bool ForeignChanges::Lately(HvaRange range) const {
  const int64_t now = now_();
  const auto lately = [now](int64_t time) { return time != 0 && now - time <= kMemoryNs; };
  if (lately(all_ns_.load(kRelaxed))) return true;
  const HvaRange pages = RoundOutToPages(range).Intersect(ram_);
  for (Hva page = pages.begin; page < pages.end; page += kPageSize) {
    const std::atomic_ref time(times_[(page - ram_.begin) >> kPageShift]);
    if (lately(time.load(kRelaxed))) return true;
  }
  return false;
}

}  // namespace underfoot
