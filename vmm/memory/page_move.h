// UFFDIO_MOVE of the pages of a range, holes left out.
//
// A hole ends the call, and is skipped by the next one. The kernel can skip it too
// (UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES), but move_pages() of Linux 6.18 (mm/userfaultfd.c) goes round
// for ever where a page that was busy, which it tries again, has become a hole meanwhile.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_PAGE_MOVE_H_
#define UNDERFOOT_VMM_MEMORY_PAGE_MOVE_H_

#include "mmu/types.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

// `to` is registered with `uffd`. Returns 0 or, with some pages moved, why not all were: EBUSY of a
// page that is pinned or shared with a child, EEXIST where there is a page already.
[[nodiscard]] int MovePages(const Userfaultfd& uffd, HvaRange from, Hva to);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_PAGE_MOVE_H_
