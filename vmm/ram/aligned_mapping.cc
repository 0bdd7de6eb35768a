#include "vmm/ram/aligned_mapping.h"

#include <sys/mman.h>

#include <cerrno>

#include "mmu/base/types.h"

namespace underfoot {

void* MapAligned(uint64_t bytes, uint64_t alignment, int flags, int fd) {
  const uint64_t room = bytes + alignment;
  void* const reserved =
      mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  const Hva begin = HvaOf(reserved);
  const Hva aligned{(begin.value + alignment - 1) / alignment * alignment};
  void* const base =
      mmap(PointerOf(aligned), bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
  const int error = errno;
  const Hva end = base == MAP_FAILED ? begin : aligned + bytes;
  if (aligned > begin && base != MAP_FAILED) munmap(PointerOf(begin), aligned - begin);
  if (end < begin + room) munmap(PointerOf(end), begin + room - end);
  errno = error;
  return base;
}

}  // namespace underfoot
