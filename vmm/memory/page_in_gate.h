// Shuts out page-ins of a range whose content is elsewhere and will come back. A bracket alone does
// not: it takes the claim of a page-in under way and does not wait for it (I11), and what that
// brings in would stand in the content's place. Userfaultfd's mmap_changing does the same for one
// call (fs/userfaultfd.c).
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_PAGE_IN_GATE_H_
#define UNDERFOOT_VMM_MEMORY_PAGE_IN_GATE_H_

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/types.h"

namespace underfoot {

class PageInGate {
 public:
  // No page-in of `range` begins while it lives, and none goes on when it is there. Inside a
  // bracket of the range, so that nobody asks in vain for longer than that.
  class Shut {
   public:
    Shut(PageInGate& gate, HvaRange range) : gate_(gate), range_(range) {
      absl::WriterMutexLock lock(&gate_.mutex_);
      gate_.shut_.push_back(range_);
    }
    ~Shut() {
      absl::WriterMutexLock lock(&gate_.mutex_);
      gate_.shut_.erase(std::find(gate_.shut_.begin(), gate_.shut_.end(), range_));
    }
    Shut(const Shut&) = delete;
    Shut& operator=(const Shut&) = delete;

   private:
    PageInGate& gate_;
    const HvaRange range_;
  };

  // A page-in under way: held over its looks at the page and what it does to it.
  class ABSL_SCOPED_LOCKABLE PageIn {
   public:
    explicit PageIn(PageInGate& gate) ABSL_SHARED_LOCK_FUNCTION(gate.mutex_) : gate_(gate) {
      gate_.mutex_.ReaderLock();
    }
    ~PageIn() ABSL_UNLOCK_FUNCTION() { gate_.mutex_.ReaderUnlock(); }
    PageIn(const PageIn&) = delete;
    PageIn& operator=(const PageIn&) = delete;

    bool MayBringIn(HvaRange range) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return std::none_of(gate_.shut_.begin(), gate_.shut_.end(),
                          [&](HvaRange shut) { return shut.Overlaps(range); });
    }

   private:
    PageInGate& gate_;
  };

 private:
  // Guards: the ranges that are shut. Order: innermost, but held shared over userfaultfd's ioctls,
  // which wait for the mm's lock and not for us.
  absl::Mutex mutex_;
  std::vector<HvaRange> shut_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_PAGE_IN_GATE_H_
