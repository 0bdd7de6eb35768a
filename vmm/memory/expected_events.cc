#include "vmm/memory/expected_events.h"

#include <algorithm>

#include "mmu/mutant.h"

namespace underfoot {

uint64_t ExpectedEvents::Expect(HvaRange range, uint64_t times) {
  absl::MutexLock lock(&mutex_);
  // A call that failed, or met nothing registered, has no event. What has returned long ago has
  // been read long ago.
  if (entries_.size() > kKept && entries_.front().returned) entries_.erase(entries_.begin());
  entries_.push_back({++last_id_, range, range.size() * times, false});
  return last_id_;
}

void ExpectedEvents::Returned(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto entry =
      std::find_if(entries_.begin(), entries_.end(), [id](const Entry& e) { return e.id == id; });
  if (entry != entries_.end()) entry->returned = true;
}

bool ExpectedEvents::Consume(HvaRange range) {
  absl::MutexLock lock(&mutex_);
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [range](const Entry& e) {
    return e.range.Contains(range) && e.bytes_left >= range.size();
  });
  if (entry == entries_.end()) return false;
  entry->bytes_left -= range.size();
  if (entry->bytes_left == 0) entries_.erase(entry);
  return true;
}

void ExpectedEvents::ForgetReturned() {
  if (UNDERFOOT_MUTANT("expectation-outlives-its-call")) return;
  absl::MutexLock lock(&mutex_);
  std::erase_if(entries_, [](const Entry& entry) { return entry.returned; });
}

}  // namespace underfoot
