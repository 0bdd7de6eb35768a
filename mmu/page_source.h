// What the library asks of the machine: bring a host page in and name its frame.
//
// Thread safety: called from any thread, several at a time for one page, with no lock held and no
// read section open. It may sleep. It must not call Begin.

#ifndef UNDERFOOT_MMU_PAGE_SOURCE_H_
#define UNDERFOOT_MMU_PAGE_SOURCE_H_

#include <cstdint>
#include <span>

#include "mmu/types.h"

namespace underfoot {

enum class [[nodiscard]] PageInOutcome{
    kPresent,   // the page is there, and `pfn` and `granted` are what the host says of it
    kAgain,     // lost to a change of the host mm that is under way: try again
    kSettling,  // the page may be used by hva, but no translation of it may be kept
    kFailed,    // it cannot be brought in at all
};

struct PageInResult {
  PageInOutcome outcome = PageInOutcome::kFailed;
  Pfn pfn;
  Access granted = Access::kRead;
  // The page lies in a naturally aligned block of this level that is present as a whole, in
  // consecutive frames, under one permission. 0: nothing is known of its neighbours.
  unsigned level = 0;
};

class PageSource {
 public:
  virtual ~PageSource() = default;
  // `page` is the hva of a page. `access` is what must be possible afterwards.
  virtual PageInResult PageIn(Hva page, Access access) = 0;
  // Pages that nobody has asked for yet, to be read, an answer for each: whatever is not easily had
  // may be left out, with any outcome but kPresent.
  virtual void PageInSome(HvaRange pages, std::span<PageInResult> results) {
    for (uint64_t i = 0; i < results.size(); ++i) {
      results[i] = PageIn(pages.begin + i * kPageSize, Access::kRead);
    }
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PAGE_SOURCE_H_
