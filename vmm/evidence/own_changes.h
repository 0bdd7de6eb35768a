// The changes of the host mm that this process makes itself and announces before the system call,
// by thread. With them, the kernel's later records of the same changes are recognized.
//
//   Announce(range) ── the system call, in this thread ── Done(range)     may nest
//
// Each thread writes its own ring, so an announcement costs two clock reads and a few stores. The
// last kKept announcements of a thread are remembered. An older one is not recognized, which costs
// one invalidation that finds no translation.
//
// Thread safety: Announce and Done act on the calling thread's ring and may be called by any
// thread. Made may be called by any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_OWN_CHANGES_H_
#define UNDERFOOT_VMM_EVIDENCE_OWN_CHANGES_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"

namespace underfoot {

class OwnChanges {
 public:
  static constexpr uint64_t kKept = 1024;

  OwnChanges();
  ~OwnChanges();
  OwnChanges(const OwnChanges&) = delete;
  OwnChanges& operator=(const OwnChanges&) = delete;

  void Announce(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the innermost of this thread's announcements of the range. If there is none, it has no
  // effect.
  void Done(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether thread `tid` was inside an announced change that contains `range` at the time `time_ns`
  // (MonotonicNs). `under_way`: whether a change that is not done yet counts. If another thread
  // ends a bracket, its announcement is never marked as done: then the caller must find out
  // otherwise whether the bracket is in flight.
  bool Made(int32_t tid, HvaRange range, int64_t time_ns, bool under_way = true) const
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Ring;

  // nullptr: there is no memory for it.
  Ring* RingOfThisThread() ABSL_LOCKS_EXCLUDED(mutex_);

  const uint64_t id_;  // this object's number, which is never used again
  // Guards: the map from threads to rings. Order: innermost. Access to a ring needs no lock.
  mutable absl::Mutex mutex_;
  std::map<int32_t, std::unique_ptr<Ring>> rings_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_OWN_CHANGES_H_
