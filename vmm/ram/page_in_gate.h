// Prevents page-ins of a range whose content has been moved away and will come back. A bracket
// alone does not prevent them: it steals the claim of a page-in under way, but does not wait for
// that page-in (I11), so the page-in could put a new page where the content must return. Compare:
// mmap_changing in fs/userfaultfd.c, for one system call.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_RAM_PAGE_IN_GATE_H_
#define UNDERFOOT_VMM_RAM_PAGE_IN_GATE_H_

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"

namespace underfoot {

class PageInGate {
 public:
  // While it exists, no page-in of `range` begins; its constructor waits for those under way. It is
  // created inside a bracket of the range, so a page-in is refused no longer than that bracket lasts.
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

  // A page-in under way: held over its looks at the page and what it does to it. The gate is only
  // tried: a Shut waits for the page-ins under way, and the handler of another fault must not wait
  // for those as well.
  class PageIn {
   public:
    explicit PageIn(PageInGate& gate) ABSL_NO_THREAD_SAFETY_ANALYSIS
        : gate_(gate),
          inside_(gate.mutex_.ReaderTryLock()) {}
    ~PageIn() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (inside_) gate_.mutex_.ReaderUnlock();
    }
    PageIn(const PageIn&) = delete;
    PageIn& operator=(const PageIn&) = delete;

    // False: the range is shut, or some range is being shut. The caller tries again later.
    bool MayBringIn(HvaRange range) const ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return inside_ && std::none_of(gate_.shut_.begin(), gate_.shut_.end(),
                                     [&](HvaRange shut) { return shut.Overlaps(range); });
    }

   private:
    PageInGate& gate_;
    const bool inside_;
  };

 private:
  // Guards: the ranges that are shut. Order: innermost, but held shared over userfaultfd's ioctls,
  // which wait for the mm's lock and not for us.
  absl::Mutex mutex_;
  std::vector<HvaRange> shut_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_PAGE_IN_GATE_H_
