// The userfaultfd events that our own hooks are about to cause, so that the monitor tells them from
// those of others: the hook has bracketed the change already, nothing is left to do.
//
// The kernel holds the call up until its event has been read (userfaultfd_event_wait_completion),
// but the monitor may look at it later: so an expectation outlives the call, until the monitor is
// about to read again. No longer: a call that failed had no event, and what it would leave would
// pass for the explanation of somebody else's.
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

  // The monitor, when it has taken all that it has read.
  void ForgetReturned() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kKept = 64;

  struct Entry {
    uint64_t id;
    HvaRange range;
    uint64_t bytes_left;
    bool returned;
  };

  // Guards: all below. Order: innermost; held across a few comparisons.
  absl::Mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_EXPECTED_EVENTS_H_
