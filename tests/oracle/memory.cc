#include "tests/oracle/memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace underfoot::oracle {

Memory::Memory(uint64_t pages) : bytes_(pages * kPageSize) {
  void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap of the oracle's memory");
    std::abort();
  }
  base_ = HvaOf(memory);
}

Memory::~Memory() { ::munmap(PointerOf(base_), bytes_); }

}  // namespace underfoot::oracle
