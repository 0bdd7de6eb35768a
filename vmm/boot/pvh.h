// Reads an uncompressed kernel, vmlinux: an ELF file whose note XEN_ELFNOTE_PHYS32_ENTRY names the
// entry point of the PVH boot protocol (xen/include/public/arch-x86/hvm/start_info.h). The file is
// not trusted.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_PVH_H_
#define UNDERFOOT_VMM_BOOT_PVH_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/boot/loader.h"

namespace underfoot {

bool LooksLikeElf(std::span<const std::byte> file);

// The 32-bit entry point that the note names. InvalidArgument if there is no such note.
absl::StatusOr<Gpa> FindPvhEntry(std::span<const std::byte> image);

// A range of the memory map.
struct MemoryRange {
  Gpa gpa;
  uint64_t bytes = 0;
  bool ram = false;  // false: reserved
};

// What the start information points to.
struct PvhStartInfo {
  Gpa command_line;
  Gpa acpi;
  GpaRange initrd;  // empty: none
  std::vector<MemoryRange> memory;
};

// The start information with its memory map and its list of modules, for `at`.
std::vector<std::byte> MakePvhStartInfo(Gpa at, const PvhStartInfo& info);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_PVH_H_
