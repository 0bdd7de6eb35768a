#include "vmm/ram/file_holes.h"

#include <sys/mman.h>

#include <cerrno>

#include "vmm/base/backing.h"
#include "vmm/ram/aligned_mapping.h"

namespace underfoot {

absl::StatusOr<std::unique_ptr<FileHoles>> FileHoles::Create(const GuestMemory& memory) {
  void* const base =
      MapAligned(memory.bytes(), kBlockBytes, MAP_SHARED | MAP_NORESERVE, memory.fd());
  if (base == MAP_FAILED)
    return absl::ErrnoToStatus(errno, "second mmap of the memfd of guest RAM");
  static_cast<void>(madvise(base, memory.bytes(), MADV_HUGEPAGE));  // a hint
  static_cast<void>(madvise(base, memory.bytes(), MADV_DONTFORK));
  return std::unique_ptr<FileHoles>(new FileHoles(memory.hvas(), HvaOf(base)));
}

FileHoles::~FileHoles() { static_cast<void>(munmap(PointerOf(second_), ram_.size())); }

void FileHoles::Fill(HvaRange block) const {
  void* const here = PointerOf(second_ + (block.begin - ram_.begin));
  static_cast<void>(madvise(here, block.size(), MADV_POPULATE_WRITE));
  // The second mapping must not keep the pages from being taken or split.
  static_cast<void>(madvise(here, block.size(), MADV_DONTNEED));
}

}  // namespace underfoot
