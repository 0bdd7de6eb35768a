// UFFDIO_MOVE of the pages of a range, holes left out.
//
// A hole ends the system call, and the next call starts behind the hole. The kernel itself could
// skip holes (UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES). But move_pages() of Linux 6.18 (mm/userfaultfd.c)
// then loops for ever if a page was busy and has become a hole before it retries that page.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_SOURCES_HOOKS_PAGE_MOVE_H_
#define UNDERFOOT_VMM_SOURCES_HOOKS_PAGE_MOVE_H_

#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {

struct [[nodiscard]] MovedPages {
  uint64_t bytes = 0;
  // 0, or why not all were moved: EBUSY of a page that is pinned or shared with a child, EEXIST
  // where there is a page already.
  int error = 0;
};

// `to` is registered with `uffd`.
MovedPages MovePages(const Userfaultfd& uffd, HvaRange from, Hva to);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_HOOKS_PAGE_MOVE_H_
