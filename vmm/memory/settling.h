// Ranges that a foreign removal is settling on (P6: M4, M5): userfaultfd reports the start of a
// removal and never its end, so for a while a page that is copied in may still be zapped. Meanwhile
// the guest runs on the page and no translation of it is kept.
//
// The while is a bound in time, not evidence: a madvising thread may sleep longer between the event
// and its zap. What is lost then is found by the next fault on the page and repaired (M7).
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_SETTLING_H_
#define UNDERFOOT_VMM_MEMORY_SETTLING_H_

#include <atomic>
#include <cstdint>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/types.h"

namespace underfoot {

class SettlingRanges {
 public:
  explicit SettlingRanges(absl::Duration bound = absl::Milliseconds(100)) : bound_(bound) {}

  void Add(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // A removal of the range may still be under way.
  bool Settling(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_) { return Within(range, bound_); }

  // A removal was read lately: a page of the range that is gone needs no other explanation.
  bool Explains(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_) { return Within(range, kMemory); }

 private:
  static constexpr absl::Duration kMemory = absl::Seconds(5);

  struct Entry {
    HvaRange range;
    absl::Time added;
  };

  bool Within(HvaRange range, absl::Duration age) ABSL_LOCKS_EXCLUDED(mutex_);

  const absl::Duration bound_;
  // Lets the common case, nothing settling, take no lock.
  // Pairs with: Within. Without it: a leaf is installed just after the removal was read, and is
  // repaired at the next fault like any lost copy.
  std::atomic<uint64_t> count_{0};
  // Guards: the entries. Order: innermost; nothing is called with it held.
  absl::Mutex mutex_;
  // In the order of their times, so that a look at the last ones is enough.
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_SETTLING_H_
