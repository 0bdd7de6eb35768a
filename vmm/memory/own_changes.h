// The changes of the host mm that this process makes itself and announces before the call, by
// thread: so that what the kernel tells of them later is recognized.
//
//   Announce(range) ── the call, in this thread ── Done(range)     may nest
//
// Each thread writes a ring of its own, so an announcement is two looks at the clock and a few
// stores. The last kKept of a thread are remembered; what is forgotten is not recognized, which
// costs an invalidation that finds nothing.
//
// Thread safety: Announce and Done: any thread, each for itself. Made: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_OWN_CHANGES_H_
#define UNDERFOOT_VMM_MEMORY_OWN_CHANGES_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/types.h"

namespace underfoot {

class OwnChanges {
 public:
  static constexpr uint64_t kKept = 1024;

  OwnChanges();
  ~OwnChanges();
  OwnChanges(const OwnChanges&) = delete;
  OwnChanges& operator=(const OwnChanges&) = delete;

  void Announce(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  // The innermost of this thread's announcements of the range. Without one: no effect.
  void Done(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether thread `tid` was inside an announced change of all of `range` at `time_ns`
  // (MonotonicNs). `under_way`: whether it may count one that is not done yet. A bracket that
  // another thread ends is never done: the caller knows whether it is in flight.
  bool Made(int32_t tid, HvaRange range, int64_t time_ns, bool under_way = true) const
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Ring;

  Ring& RingOfThisThread() ABSL_LOCKS_EXCLUDED(mutex_);

  const uint64_t id_;  // of this object, never used again
  // Guards: which thread has which ring. Order: innermost; a ring itself needs no lock.
  mutable absl::Mutex mutex_;
  std::map<int32_t, std::unique_ptr<Ring>> rings_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_OWN_CHANGES_H_
