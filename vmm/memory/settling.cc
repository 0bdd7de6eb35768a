#include "vmm/memory/settling.h"

#include "absl/time/clock.h"
#include "mmu/ordering.h"

namespace underfoot {

void SettlingRanges::Add(HvaRange range) {
  absl::MutexLock lock(&mutex_);
  entries_.push_back({range, absl::Now()});
  count_.store(entries_.size(), kRelease);
}

// Called for every page that comes in: thousands of entries are remembered under heavy churn, and
// only those within `age` are looked at.
bool SettlingRanges::Within(HvaRange range, absl::Duration age) {
  if (count_.load(kAcquire) == 0) return false;
  absl::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  while (!entries_.empty() && entries_.front().added + kMemory <= now) entries_.pop_front();
  count_.store(entries_.size(), kRelease);
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->added + age <= now) return false;
    if (entry->range.Overlaps(range)) return true;
  }
  return false;
}

}  // namespace underfoot
