// Finds out which pages of guest RAM were touched recently, by sampling in software. No accessed
// bit of the CPU is read. Instead the host mm is asked, and is made to notice the next touch.
//
//   scan, for each 512 pages of the data slots:
//     young      The notifier reads the accessed bits of caches, stage-2 and devices and clears
//                them.
//     memfd      Present pages were touched since the last scan. They are zapped, in a bracket: the
//                content stays in the file, and the next touch is a minor fault.
//     private    The kernel has recorded which pages were written. The same call write-protects
//                them again, in a bracket. Reads of present pages leave no trace.
//   between scans: a page that is faulted in counts as touched, even if it is removed afterwards
//
// Therefore, while sampling is on, only a touch may bring a page in: read-ahead and fault-around
// must be off (RunOptions::page_in_is_touch).
//
// The system area is not sampled: the machine itself reads and writes there, by hva, and would have
// to wait for page-ins.
//
// Thread safety: Start and Stop belong to the owner. All other functions may be called by any
// thread.

#ifndef UNDERFOOT_VMM_AGEING_WORKING_SET_H_
#define UNDERFOOT_VMM_AGEING_WORKING_SET_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/notifier.h"
#include "vmm/ageing/touch_history.h"
#include "vmm/base/periodic_thread.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/pagemap.h"
#include "vmm/stats/stats.h"
#include "vmm/stats/working_set_info.h"

namespace underfoot {

class WorkingSet {
 public:
  // `period`: the time between two scans of the sampler's own thread.
  WorkingSet(const GuestMemory& memory, Notifier& notifier, const Pagemap& pagemap,
             absl::Duration period = absl::ZeroDuration());
  ~WorkingSet();
  WorkingSet(const WorkingSet&) = delete;
  WorkingSet& operator=(const WorkingSet&) = delete;

  // Starts a thread that scans once in each period. Without it, scans happen only by calls of Scan.
  [[nodiscard]] absl::Status Start();
  void Stop() { thread_.Stop(); }

  // Returns when all touches from before the call are recorded. Must not be called inside a read
  // section or a bracket.
  void Scan() ABSL_LOCKS_EXCLUDED(scan_mutex_);

  // Records that the page was faulted in, or that its translation was young when another component
  // cleared the accessed bit.
  void Touched(Hva page);

  // The result of the scans that ended within `window`; if absent, of the last scan. Never waits
  // for a scan.
  WorkingSetInfo Info(std::optional<absl::Duration> window) const;
  // Whether the page was touched in the last closed period or since. False also for an address
  // outside of the data slots.
  bool TouchedLately(Hva page) const;

  WorkingSetStats Stats() const;

 private:
  void Main();
  void ScanChunk(HvaRange chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(scan_mutex_);
  void TakeYoung(HvaRange chunk);
  void TakePresent(HvaRange chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(scan_mutex_);
  void TakeWritten(HvaRange chunk);
  uint64_t IndexOf(Hva page) const { return (page - data_.begin) >> kPageShift; }

  const GuestMemory& memory_;
  Notifier& notifier_;
  const Pagemap& pagemap_;
  const HvaRange data_;  // all slots except that of the system area
  TouchHistory history_;
  const absl::Duration period_;  // const, because Info and Stats may read it before Start
  PeriodicThread thread_;

  // Guards: only one thread scans at a time. Order: outermost of vmm/, and no lock of mmu/ is held
  // when it is taken. It is held across brackets.
  absl::Mutex scan_mutex_;
  std::vector<PagemapEntry> entries_ ABSL_GUARDED_BY(scan_mutex_);
  // Relaxed: independent statistics.
  std::atomic<uint64_t> scan_us_{0};
  std::atomic<uint64_t> touched_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AGEING_WORKING_SET_H_
