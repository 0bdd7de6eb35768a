// Memory for table pages: cut from chunks of 2 MiB that ask for a huge page, so that a random
// look-up misses the TLB once and not once a level. Chunks are kept for the life of the process: a
// table page that goes is the next one that comes.
//
// Under a sanitizer each table is an allocation of its own, so that a use after free is seen.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_MMU_TABLE_MEMORY_H_
#define UNDERFOOT_MMU_TABLE_MEMORY_H_

#include <cstddef>

namespace underfoot::table_memory {

// Room for one Table, cache-line aligned, not initialized.
void* Allocate();
void Free(void* room);

}  // namespace underfoot::table_memory

#endif  // UNDERFOOT_MMU_TABLE_MEMORY_H_
