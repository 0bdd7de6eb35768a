// Checks the collections of the dirty log against what the guest records of its writes (abi::Visit).
//
// The VMM numbers the time. Epoch 2k - 1 is the time before collection k, epoch 2k is the time of
// the collection itself. The guest reads the epoch, records it for the page, and then writes.
//
//   guest                                  VMM, collection k
//   i    visiting := page                  a  copy the records, then the pages that are visited
//   ii   record of page := epoch           b  epoch := 2k
//   iii  write the page                    c  collect
//   iv   visiting := another page          d  epoch := 2k + 1
//
// What a record demands of the collections:
//
// - A write with record e came after the epoch became e, since ii precedes iii. All collections
//   before number (e + 1) / 2 had ended by then. So collection (e + 1) / 2 or a later one must report
//   the page.
// - A record that a has copied, of a page that no vCPU visits, belongs to a write that is over:
//   step a reads the record first. If it then reads that the vCPU visits another page, iii precedes
//   iv, iv precedes a, and a precedes c. So a collection up to k must report the page.
//
// A page that a vCPU visits in step a is left to the next check. A write that races with c has the
// record 2k or an older one, and is over in a later step a only: collection k or k + 1 may report it.
// So the check has no false alarm, and no vCPU has to stop for it. It cannot tell two writes of one
// page with the same record apart.
//
// The VMM's own writes of the epoch are checked as well: their page must be in each collection.
//
// Thread safety: one thread at a time calls Before and After; any thread calls the others.

#ifndef UNDERFOOT_VMM_DIRTY_WRITE_CHECK_H_
#define UNDERFOOT_VMM_DIRTY_WRITE_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/stats.h"
#include "mmu/mmu.h"
#include "vmm/boot/guest_report.h"
#include "vmm/ram/guest_memory.h"

namespace underfoot {

class WriteCheck {
 public:
  // The guest keeps visits, and nothing else sets their epoch.
  WriteCheck(const GuestMemory& memory, const GuestReports& reports);

  // Steps a and b. It touches guest memory, so the caller holds no lock.
  void Before();
  // Step d, and the check. Left out if the collection failed: Before is called again for the same k.
  void After(const DirtyBitmap& collected);

  uint64_t checked() const { return checked_.Get(); }
  uint64_t missed() const { return missed_.Get(); }
  uint64_t needless() const { return needless_.Get(); }
  // The first page that was missed; empty: none.
  std::string first_missed() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A page of the slots whose writes the guest records.
  struct Page {
    uint32_t copied = 0;    // the record, as step a has copied it
    uint32_t checked = 0;   // the last record that was checked
    uint32_t reported = 0;  // the last collection that has reported the page
    bool visited = false;   // a vCPU visited it in step a
  };

  Page* Find(Gfn gfn);
  void Missed(std::string text) ABSL_LOCKS_EXCLUDED(mutex_);

  const GuestReports& reports_;
  const std::vector<GfnRange> recorded_;  // in ascending order
  std::vector<Page> pages_;               // from the first recorded gfn to the last
  uint32_t next_ = 1;                     // k
  Counter checked_;
  Counter missed_;
  Counter needless_;
  // Guards: the text. Order: innermost.
  mutable absl::Mutex mutex_;
  std::string first_missed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DIRTY_WRITE_CHECK_H_
