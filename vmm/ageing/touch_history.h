// Records when each page was last touched, as exactly as scans can find out, and counts the pages
// that were touched within a window of time.
//
//   scan ends      1        2        3        now
//   ───────────────┼────────┼────────┼─────────┼──►
//   period     1       2        3       4, open
//
// The word of a page holds the period of its last touch; 0: no touch was observed. A scan finds out
// which pages were touched since the scan before, and closes the period. A window consists of the
// most recently closed periods, as many as needed, and the open period, for which the record is
// incomplete.
//
// Thread safety: Touch and the const functions may be called by any thread. Close may be called by
// one thread at a time.

#ifndef UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_
#define UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/ordering.h"

namespace underfoot {

class TouchHistory {
 public:
  // The number of scans whose times are kept. A window does not reach further back.
  static constexpr uint32_t kScansKept = 4096;

  struct Window {
    uint32_t first = 1;    // the first period of the window
    uint32_t scans = 0;    // the number of closed periods in it
    int64_t begin_ns = 0;  // the time at which its first period began
  };

  // The first period begins at `now_ns`.
  TouchHistory(uint64_t pages, int64_t now_ns);

  // Records a touch in the open period.
  void Touch(uint64_t page);
  // Whether the page was touched in the open period.
  bool TouchedNow(uint64_t page) const { return Last(page) > closed_.load(kRelaxed); }
  // Ends a scan: touches from now on belong to the next period.
  void Close(int64_t now_ns) ABSL_LOCKS_EXCLUDED(mutex_);

  // The window of the last closed period and the open one.
  Window Latest() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The window of the periods closed at `from_ns` or later, and the open one.
  Window Since(int64_t from_ns) const ABSL_LOCKS_EXCLUDED(mutex_);

  bool TouchedIn(uint64_t page, const Window& window) const { return Last(page) >= window.first; }
  // The number of touched pages among the `count` pages from `first` on. It reads one word for each
  // page.
  uint64_t Touched(uint64_t first, uint64_t count, const Window& window) const;

  uint64_t pages() const { return pages_; }
  uint32_t scans() const { return closed_.load(kRelaxed); }

 private:
  // Relaxed: the value is a hint that may be outdated at once, and it publishes no other memory.
  uint32_t Last(uint64_t page) const { return last_[page].load(kRelaxed); }
  Window From(uint32_t first) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t pages_;
  const std::unique_ptr<std::atomic<uint32_t>[]> last_;
  // Written under mutex_. Relaxed: a touch while a period is being closed may count for either
  // period.
  std::atomic<uint32_t> closed_{0};
  // Guards: the times. Order: innermost. It is held for look-ups in them.
  mutable absl::Mutex mutex_;
  // The time at which period n was closed is at n % kScansKept; the entry of period 0 is the
  // beginning.
  std::vector<int64_t> ends_ns_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_
