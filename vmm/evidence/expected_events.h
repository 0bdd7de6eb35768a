// The userfaultfd events that the hooks of this process are about to cause. With them a handler of
// userfaultfd distinguishes these events from those that other threads or processes cause: the hook
// has already bracketed such a change, so the handler has nothing left to do.
//
// The kernel blocks the call until its event has been read (userfaultfd_event_wait_completion), but
// the handler may process the event after the call has returned. Therefore an expectation outlives
// its call. It must not match an event that was read after the call had returned: a failed call
// causes no event, and the expectation would then match an event that another thread caused. So the
// returns are counted, and a handler notes that count before each read:
//
//   our call                     handler                     another process
//   1  Expect
//   2  the call; it fails
//   3  Returned: return number n
//                                a  since = Returns() >= n   madvise of the same range
//                                b  read: its event
//                                c  Consume(range, since): no, since that call returned before a
//
// Model: tests/model/expects.pml.
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_EXPECTED_EVENTS_H_
#define UNDERFOOT_VMM_EVIDENCE_EXPECTED_EVENTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"

namespace underfoot {

class ExpectedEvents {
 public:
  // Called before the system call. The kernel may split the range at the borders of mappings; each
  // part is expected. `times`: the number of events that report each byte.
  uint64_t Expect(HvaRange range, uint64_t times = 1) ABSL_LOCKS_EXCLUDED(mutex_);
  // Called after the system call, whatever it returned.
  void Returned(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);

  // The number of calls that have returned. A handler asks before each read.
  uint64_t Returns() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Called by a handler. Returns whether an event of this range was expected by a call that had not
  // returned when Returns() gave `since`; each byte matches as many events as Expect's `times`
  // allowed.
  bool Consume(HvaRange range, uint64_t since) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kKept = 64;

  struct Entry {
    uint64_t id;
    HvaRange range;
    uint64_t bytes_left;
    uint64_t returned;  // the number of its return; 0: the call has not returned
  };

  // Guards: all fields below. Order: innermost. It is held for a few comparisons.
  mutable absl::Mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t returns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_EXPECTED_EVENTS_H_
