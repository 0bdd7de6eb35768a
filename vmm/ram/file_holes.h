// Fills holes of the memfd under guest RAM with huge pages of zeroes.
//
// The kernel gives a memfd a huge page when a mapping of it with MADV_HUGEPAGE is touched
// (shmem_enabled: advise, within_size, always). A touch of guest RAM is a userfault, and userfaultfd
// fills in pages of 4 KiB only. So the file is mapped a second time, and the hole is touched there.
// What the file has already stays as it is.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_RAM_FILE_HOLES_H_
#define UNDERFOOT_VMM_RAM_FILE_HOLES_H_

#include <memory>

#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/ram/guest_memory.h"

namespace underfoot {

class FileHoles {
 public:
  // `memory` is a memfd.
  static absl::StatusOr<std::unique_ptr<FileHoles>> Create(const GuestMemory& memory);
  ~FileHoles();
  FileHoles(const FileHoles&) = delete;
  FileHoles& operator=(const FileHoles&) = delete;

  // The part of the file that is mapped at `block` of guest RAM has no hole afterwards, unless
  // there is no memory, or another thread punches one. The pages are not mapped in guest RAM.
  void Fill(HvaRange block) const;

 private:
  FileHoles(HvaRange ram, Hva second) : ram_(ram), second_(second) {}

  const HvaRange ram_;
  const Hva second_;  // where the file is mapped a second time
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_FILE_HOLES_H_
