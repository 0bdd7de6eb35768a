#include "vmm/evidence/mmap_barrier.h"

#include <sys/mman.h>

#include "mmu/base/check.h"
#include "mmu/base/types.h"

namespace underfoot {

MmapBarrier::MmapBarrier()
    : page_(mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
  if (page_ == MAP_FAILED) page_ = nullptr;
}

MmapBarrier::~MmapBarrier() {
  if (page_ != nullptr) munmap(page_, kPageSize);
}

// Sets the protection that the page already has. The kernel takes the lock before it compares the
// two protections.
void MmapBarrier::Wait() const {
  const int changed = mprotect(page_, kPageSize, PROT_NONE);
  UNDERFOOT_CHECK(changed == 0, "mprotect of a page of our own", HvaOf(page_).value, changed);
}

}  // namespace underfoot
