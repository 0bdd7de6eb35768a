#include "vmm/evidence/expected_events.h"

#include <algorithm>

namespace underfoot {

uint64_t ExpectedEvents::Expect(HvaRange range, uint64_t times) {
  absl::MutexLock lock(&mutex_);
  // A call that failed, or that touched no registered memory, causes no event and leaves its entry.
  // If the event of an entry that goes here is still being processed, it counts as foreign, which
  // costs an invalidation.
  if (entries_.size() > kKept && entries_.front().returned != 0) entries_.erase(entries_.begin());
  entries_.push_back({++last_id_, range, range.size() * times, 0});
  return last_id_;
}

void ExpectedEvents::Returned(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  ++returns_;
  const auto entry =
      std::find_if(entries_.begin(), entries_.end(), [id](const Entry& e) { return e.id == id; });
  if (entry != entries_.end()) entry->returned = returns_;
}

uint64_t ExpectedEvents::Returns() const {
  absl::MutexLock lock(&mutex_);
  return returns_;
}

bool ExpectedEvents::Consume(HvaRange range, uint64_t since) {
  absl::MutexLock lock(&mutex_);
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
    return e.range.Contains(range) && e.bytes_left >= range.size() &&
           (e.returned == 0 || e.returned > since);
  });
  if (entry == entries_.end()) return false;
  entry->bytes_left -= range.size();
  if (entry->bytes_left == 0) entries_.erase(entry);
  return true;
}

}  // namespace underfoot
