#include "vmm/ageing/touch_history.h"

#include <algorithm>

namespace underfoot {

TouchHistory::TouchHistory(uint64_t pages, int64_t now_ns)
    : pages_(pages),
      last_(std::make_unique<std::atomic<uint32_t>[]>(pages)),
      ends_ns_(kScansKept, now_ns) {}

void TouchHistory::Touch(uint64_t page) {
  const uint32_t period = closed_.load(kRelaxed) + 1;
  uint32_t last = Last(page);
  // The word never decreases: a delayed call must not overwrite a later touch.
  while (last < period && !last_[page].compare_exchange_weak(last, period, kRelaxed)) {
  }
}

void TouchHistory::Close(int64_t now_ns) {
  absl::MutexLock lock(&mutex_);
  const uint32_t period = closed_.load(kRelaxed) + 1;
  ends_ns_[period % kScansKept] = now_ns;
  closed_.store(period, kRelaxed);
}

TouchHistory::Window TouchHistory::From(uint32_t first) const {
  return {.first = first,
          .scans = closed_.load(kRelaxed) + 1 - first,
          .begin_ns = ends_ns_[(first - 1) % kScansKept]};
}

TouchHistory::Window TouchHistory::Latest() const {
  absl::MutexLock lock(&mutex_);
  return From(std::max<uint32_t>(closed_.load(kRelaxed), 1));
}

TouchHistory::Window TouchHistory::Since(int64_t from_ns) const {
  absl::MutexLock lock(&mutex_);
  const uint32_t closed = closed_.load(kRelaxed);
  // The end of the period before a kept one must be kept too, because it is the beginning of that
  // one.
  const uint32_t oldest = closed < kScansKept ? 1 : closed - kScansKept + 2;
  uint32_t first = closed + 1;
  while (first > oldest && ends_ns_[(first - 1) % kScansKept] >= from_ns) --first;
  return From(first);
}

uint64_t TouchHistory::Touched(uint64_t first, uint64_t count, const Window& window) const {
  uint64_t touched = 0;
  for (uint64_t page = first; page < first + count; ++page) {
    touched += TouchedIn(page, window) ? 1 : 0;
  }
  return touched;
}

}  // namespace underfoot
