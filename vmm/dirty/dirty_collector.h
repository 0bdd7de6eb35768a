// Collects the dirty log of a machine's memory once in each period, checks each collection, and
// keeps the pages until a client takes them.
//
//   guest, VMM ──► logs ──► Collect, each period ──► waiting ──► Take ──► a client
//                   ▲            │ it failed            ▲          │ it did not receive the answer
//                   └────────────┘                      └──────────┘ GiveBack
//
// Thread safety: Start and Stop belong to the owner. One thread at a time calls Collect: the
// collector's own, or the owner if that does not run. All other functions may be called by any
// thread, and wait neither for a collection nor for anything else.

#ifndef UNDERFOOT_VMM_DIRTY_DIRTY_COLLECTOR_H_
#define UNDERFOOT_VMM_DIRTY_DIRTY_COLLECTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/mmu.h"
#include "vmm/base/periodic_thread.h"
#include "vmm/boot/guest_report.h"
#include "vmm/dirty/write_check.h"
#include "vmm/kvm/kvm.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/stats/dirty_info.h"
#include "vmm/stats/stats.h"

namespace underfoot {

class DirtyCollector {
 public:
  // `memory` logs writes. `period`: the time between two collections of the collector's own thread.
  DirtyCollector(const GuestMemory& memory, Mmu& mmu, Vm& vm, const GuestReports& reports,
                 absl::Duration period);
  ~DirtyCollector();
  DirtyCollector(const DirtyCollector&) = delete;
  DirtyCollector& operator=(const DirtyCollector&) = delete;

  // Starts a thread that collects once in each period. Without it, collections happen only by calls
  // of Collect.
  [[nodiscard]] absl::Status Start();
  void Stop() { thread_.Stop(); }

  // When this returns, each write that ended before the call is in this collection or in an earlier
  // one. After an error nothing is lost; the next collection has the pages. Must not be called
  // inside a read section or with a lock held.
  [[nodiscard]] absl::Status Collect() ABSL_LOCKS_EXCLUDED(mutex_);

  DirtyInfo Info() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns the pages that were collected since the last call, and those that were given back since.
  DirtyPages Take() ABSL_LOCKS_EXCLUDED(mutex_);
  // Puts the pages of a Take back: the next Take returns them again.
  void GiveBack(const DirtyPages& pages) ABSL_LOCKS_EXCLUDED(mutex_);

  DirtyLogStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether a write is in no collection that had to report it; and the first such page, in words.
  bool missed() const { return check_.missed() != 0; }
  std::string first_missed() const { return check_.first_missed(); }

 private:
  void Main() ABSL_LOCKS_EXCLUDED(mutex_);

  const GuestMemory& memory_;
  Mmu& mmu_;
  Vm& vm_;
  const absl::Duration period_;
  WriteCheck check_;
  PeriodicThread thread_;

  // Guards: the results. Order: innermost. It is held to copy bitmaps.
  mutable absl::Mutex mutex_;
  std::vector<uint64_t> last_ ABSL_GUARDED_BY(mutex_);     // of the last collection
  std::vector<uint64_t> waiting_ ABSL_GUARDED_BY(mutex_);  // that no client has taken
  absl::Duration last_ended_ ABSL_GUARDED_BY(mutex_);      // MonotonicNow
  DirtyLogStats stats_ ABSL_GUARDED_BY(mutex_);            // the check counts for itself
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DIRTY_DIRTY_COLLECTOR_H_
