// A mapping that begins at a multiple of more than a page.
//
// Thread safety: a pure function of the address space.

#ifndef UNDERFOOT_VMM_RAM_ALIGNED_MAPPING_H_
#define UNDERFOOT_VMM_RAM_ALIGNED_MAPPING_H_

#include <cstdint>

namespace underfoot {

// mmap(2) of `bytes`, for reading and writing, at a multiple of `alignment`; MAP_FAILED with errno.
// `flags` without MAP_FIXED.
void* MapAligned(uint64_t bytes, uint64_t alignment, int flags, int fd);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_ALIGNED_MAPPING_H_
