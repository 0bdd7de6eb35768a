// Memory for a fake host: anonymous, not reserved, and aligned to 2 MiB, so that blocks may be
// mapped.

#ifndef UNDERFOOT_TESTS_SUPPORT_BLOCK_MEMORY_H_
#define UNDERFOOT_TESTS_SUPPORT_BLOCK_MEMORY_H_

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "mmu/base/types.h"

namespace underfoot::testing {

// Aborts the program when there is none. munmap gives it back.
inline Hva MapBlockMemory(uint64_t bytes) {
  constexpr uint64_t kBlockSize = uint64_t{2} << 20;
  void* memory = ::mmap(nullptr, bytes + kBlockSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap of a test's pages");
    std::abort();
  }
  const Hva base{(HvaOf(memory).value + kBlockSize - 1) & ~(kBlockSize - 1)};
  ::munmap(memory, base - HvaOf(memory));
  ::munmap(PointerOf(base + bytes), HvaOf(memory) + kBlockSize - base);
  return base;
}

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_BLOCK_MEMORY_H_
