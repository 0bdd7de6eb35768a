// When each page was last touched, as exactly as scans can tell, and what that makes of a window of
// time.
//
//   scan ends      1        2        3        now
//   ───────────────┼────────┼────────┼─────────┼──►
//   period     1       2        3       4, open
//
// A page's word is the period of its last touch; 0: none was seen. A scan finds out what was
// touched since the one before, and closes the period. A window is a number of periods that were
// closed last, and the open one, of which less is known.
//
// Thread safety: Touch and the questions from any thread; Close by one at a time.

#ifndef UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_
#define UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/ordering.h"

namespace underfoot {

class TouchHistory {
 public:
  // Of so many scans the times are kept: a window reaches no further back.
  static constexpr uint32_t kScansKept = 4096;

  struct Window {
    uint32_t first = 1;    // its first period
    uint32_t scans = 0;    // closed periods in it
    int64_t begin_ns = 0;  // of its first period
  };

  // The first period begins at `now_ns`.
  TouchHistory(uint64_t pages, int64_t now_ns);

  // In the open period.
  void Touch(uint64_t page);
  // Whether this was done in the open period.
  bool TouchedNow(uint64_t page) const { return Last(page) > closed_.load(kRelaxed); }
  // A scan has ended: what is touched from here on belongs to the next period.
  void Close(int64_t now_ns) ABSL_LOCKS_EXCLUDED(mutex_);

  // The period that was closed last, and the open one.
  Window Latest() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The periods closed at `from_ns` or later, and the open one.
  Window Since(int64_t from_ns) const ABSL_LOCKS_EXCLUDED(mutex_);

  bool TouchedIn(uint64_t page, const Window& window) const { return Last(page) >= window.first; }
  // How many of `count` pages from `first` on. It looks at a word for each.
  uint64_t Touched(uint64_t first, uint64_t count, const Window& window) const;

  uint64_t pages() const { return pages_; }
  uint32_t scans() const { return closed_.load(kRelaxed); }

 private:
  // Relaxed: a hint of a moment, which says nothing about other memory.
  uint32_t Last(uint64_t page) const { return last_[page].load(kRelaxed); }
  Window From(uint32_t first) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t pages_;
  const std::unique_ptr<std::atomic<uint32_t>[]> last_;
  // Written under mutex_. Relaxed: who touches while a period closes may be in either.
  std::atomic<uint32_t> closed_{0};
  // Guards: the times. Order: innermost; held across look-ups in them.
  mutable absl::Mutex mutex_;
  // When period n was closed, at n % kScansKept; that of 0 is the beginning.
  std::vector<int64_t> ends_ns_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AGEING_TOUCH_HISTORY_H_
