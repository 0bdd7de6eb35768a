// What the machine does for the library: it brings a host page in and names its frame.
//
// Thread safety: called from any thread, several at a time for one page, with no lock held and no
// read section open. It may sleep. It must not call Begin.

#ifndef UNDERFOOT_MMU_PAGE_SOURCE_H_
#define UNDERFOOT_MMU_PAGE_SOURCE_H_

#include <cstdint>
#include <span>

#include "mmu/base/types.h"

namespace underfoot {

enum class [[nodiscard]] PageInOutcome{
    kPresent,         // the page is present; the host has reported `pfn` and `granted`
    kAgain,           // lost to a change of the host mm that is under way: retry
    kRemovalPending,  // the page may be used by hva, but no translation of it may be kept
    kFailed,          // it cannot be brought in at all
};

struct PageInResult {
  PageInOutcome outcome = PageInOutcome::kFailed;
  Pfn pfn;
  Access granted = Access::kRead;
  // The page lies in a naturally aligned block of this level that is present as a whole, in
  // consecutive frames, under one permission. 0: nothing is known of its neighbours.
  unsigned level = 0;
};

// What the caller of FaultHandler::HandleFault knows about a fault that the source can use: for
// example what the kernel reported about the page. A source that uses it derives its own type from
// this one. mmu/ hands the pointer through to the page-ins that this fault makes, on the same
// thread, and does not look at it. A source must be given contexts of its own type only.
class FaultContext {
 protected:
  FaultContext() = default;
  ~FaultContext() = default;
};

class PageSource {
 public:
  virtual ~PageSource() = default;
  // `page` is the hva of a page. `access` is what must be possible afterwards. `context`: of the
  // fault that the page is brought in for; nullptr: there is none (FaultIn, range faults, pfn
  // caches).
  virtual PageInResult PageIn(Hva page, Access access, FaultContext* context) = 0;
  // Brings in pages on which no access waits, for reading, with one result for each. The source may
  // leave out a page that is not easily available: its result is then any outcome but kPresent.
  virtual void PageInSome(HvaRange pages, std::span<PageInResult> results, FaultContext* context) {
    for (uint64_t i = 0; i < results.size(); ++i) {
      results[i] = PageIn(pages.begin + i * kPageSize, Access::kRead, context);
    }
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PAGE_SOURCE_H_
