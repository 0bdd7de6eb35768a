#include "vmm/evidence/event_log.h"

#include <algorithm>
#include <memory>

namespace underfoot {

void EventLog::Report(const HostEvent& event) {
  {
    absl::MutexLock lock(&mutex_);
    std::construct_at(&ring_[end_ % kCapacity].event, event);
    ++end_;
  }
  if (sink_ != nullptr) sink_->Report(event);
}

uint64_t EventLog::end() const {
  absl::MutexLock lock(&mutex_);
  return end_;
}

uint64_t EventLog::FirstKept(uint64_t first) const {
  return std::max(first, end_ > kCapacity ? end_ - kCapacity : 0);
}

std::vector<NumberedEvent> EventLog::Since(uint64_t first, size_t most) const {
  std::vector<NumberedEvent> events;
  absl::MutexLock lock(&mutex_);
  for (uint64_t n = FirstKept(first); n < end_ && events.size() < most; ++n) {
    events.push_back({n, ring_[n % kCapacity].event});
  }
  return events;
}

}  // namespace underfoot
