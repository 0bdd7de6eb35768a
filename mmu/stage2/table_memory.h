// Memory for table pages. The pages are cut from chunks of 2 MiB for which the kernel is advised to
// use huge pages, so that a random look-up misses the TLB once and not once on each level. The first
// chunk is smaller and lies in ordinary pages. Chunks are kept for the life of the process; a table
// page that is freed is the first one to be used again.
//
// Under a sanitizer each table is an allocation of its own, so that a use after free is found.
//
// Thread safety: any thread.
// Errors: Allocate throws std::bad_alloc. Free cannot fail.

#ifndef UNDERFOOT_MMU_STAGE2_TABLE_MEMORY_H_
#define UNDERFOOT_MMU_STAGE2_TABLE_MEMORY_H_

#include <cstddef>

namespace underfoot::table_memory {

// Room for one Table, cache-line aligned, not initialized.
void* Allocate();
void Free(void* room);

}  // namespace underfoot::table_memory

#endif  // UNDERFOOT_MMU_STAGE2_TABLE_MEMORY_H_
