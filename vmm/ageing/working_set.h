// Which pages of guest RAM were touched lately, sampled in software: no accessed bit of the CPU is
// read, the host mm is asked and made to notice the next touch.
//
//   scan, for each 512 pages of the data slots:
//     young      caches, stage-2 and devices, asked by the notifier; made old
//     memfd      present pages were touched since the last scan. They are zapped, in a bracket: the
//                content stays in the file, and the next touch is a minor fault
//     private    written pages, as the kernel has noted them, write-protected again in the same
//                call, in a bracket. Reads of pages that are present leave no trace
//   between scans: a page that is brought in is touched, whoever takes it away afterwards
//
// So nothing may bring pages in that nobody has touched, while this is on: read-ahead and
// fault-around have to be off (RunOptions::page_in_is_touch).
//
// The system area is left out: the machine itself reads and writes there, by hva, and would have to
// wait for a page-in.
//
// Thread safety: Start and Stop by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_AGEING_WORKING_SET_H_
#define UNDERFOOT_VMM_AGEING_WORKING_SET_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/notifier.h"
#include "vmm/ageing/touch_history.h"
#include "vmm/ageing/working_set_info.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/pagemap.h"
#include "vmm/stats.h"

namespace underfoot {

class WorkingSet {
 public:
  WorkingSet(const GuestMemory& memory, Notifier& notifier, MmHooks& hooks, const Pagemap& pagemap);
  ~WorkingSet();
  WorkingSet(const WorkingSet&) = delete;
  WorkingSet& operator=(const WorkingSet&) = delete;

  // A scan each `period`, by a thread of its own. Without it: by hand.
  void Start(absl::Duration period);
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns when what was touched before the call is known. Not inside a section or a bracket.
  void Scan() ABSL_LOCKS_EXCLUDED(scan_mutex_);

  // The page was brought in, or was young to us when somebody else made it old.
  void Touched(Hva page);

  // Of the scans that ended within `window`; absent: of the last one. Never waits for a scan.
  WorkingSetInfo Info(std::optional<absl::Duration> window) const;
  // In the last closed period, or since. False also for what is no page of a data slot.
  bool TouchedLately(Hva page) const;

  WorkingSetStats Stats() const;

 private:
  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  void ScanChunk(HvaRange chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(scan_mutex_);
  void TakeYoung(HvaRange chunk);
  void TakePresent(HvaRange chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(scan_mutex_);
  void TakeWritten(HvaRange chunk);
  uint64_t IndexOf(Hva page) const { return (page - data_.begin) >> kPageShift; }

  const GuestMemory& memory_;
  Notifier& notifier_;
  MmHooks& hooks_;
  const Pagemap& pagemap_;
  const HvaRange data_;  // of all slots but the system area's
  TouchHistory history_;
  absl::Duration period_ = absl::ZeroDuration();
  std::thread thread_;

  // Guards: who scans. Order: outermost of vmm/, with nothing of mmu/ held. Held across brackets.
  absl::Mutex scan_mutex_;
  std::vector<PagemapEntry> entries_ ABSL_GUARDED_BY(scan_mutex_);
  // Guards: the wish to end. Order: innermost.
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;

  // Relaxed: numbers of their own.
  std::atomic<uint64_t> scan_us_{0};
  std::atomic<uint64_t> touched_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AGEING_WORKING_SET_H_
