#include "tests/oracle/memory.h"

#include <sys/mman.h>

#include "tests/support/block_memory.h"

namespace underfoot::oracle {

Memory::Memory(uint64_t pages)
    : bytes_(pages * kPageSize), base_(testing::MapBlockMemory(bytes_)) {}

Memory::~Memory() { ::munmap(PointerOf(base_), bytes_); }

}  // namespace underfoot::oracle
