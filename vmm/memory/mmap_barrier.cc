#include "vmm/memory/mmap_barrier.h"

#include <sys/mman.h>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/types.h"

namespace underfoot {

MmapBarrier::MmapBarrier()
    : page_(mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
  if (page_ == MAP_FAILED) page_ = nullptr;
}

MmapBarrier::~MmapBarrier() {
  if (page_ != nullptr) munmap(page_, kPageSize);
}

// To the protection that it has: the lock is taken before that is looked at.
void MmapBarrier::Wait() const {
  if (UNDERFOOT_MUTANT("mmap-barrier-waits-for-nobody")) return;
  const int changed = mprotect(page_, kPageSize, PROT_NONE);
  UNDERFOOT_CHECK(changed == 0, "mprotect of a page of our own", HvaOf(page_).value, changed);
}

}  // namespace underfoot
