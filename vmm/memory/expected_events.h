// The userfaultfd events that our own hooks are about to cause, so that the monitor tells them from
// those of others: the hook has bracketed the change already, nothing is left to do.
//
// An event is read before the call that caused it returns, but may be looked at later; so an
// expectation outlives the call, until the monitor has found the queue empty after it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_EXPECTED_EVENTS_H_
#define UNDERFOOT_VMM_MEMORY_EXPECTED_EVENTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/types.h"

namespace underfoot {

class ExpectedEvents {
 public:
  // Before the call. The kernel may split the range at mappings: each part is ours. `times`: how
  // many events tell of each byte.
  uint64_t Expect(HvaRange range, uint64_t times = 1) ABSL_LOCKS_EXCLUDED(mutex_);
  // After the call, whatever it returned.
  void Returned(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);

  // The monitor: whether an event of this range was expected; each byte as often as said.
  bool Consume(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // The monitor: `mark = Mark()`, then a read that empties the queue, its messages taken, then
  // ForgetReturned(mark).
  uint64_t Mark() const ABSL_LOCKS_EXCLUDED(mutex_);
  void ForgetReturned(uint64_t mark) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kKept = 64;

  struct Entry {
    uint64_t id;
    HvaRange range;
    uint64_t bytes_left;
    uint64_t returned;  // position in the order of returns; 0: not yet
  };

  // Guards: all below. Order: innermost; held across a few comparisons.
  mutable absl::Mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t returns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_EXPECTED_EVENTS_H_
