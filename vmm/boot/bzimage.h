// Reads a bzImage: Linux's file format for a compressed kernel, with the header of the x86 boot
// protocol (Documentation/arch/x86/boot.rst). The file is not trusted.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_BZIMAGE_H_
#define UNDERFOOT_VMM_BOOT_BZIMAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "mmu/base/types.h"

namespace underfoot {

struct BzImage {
  // The setup header as it stands in the file, from kSetupHeaderOffset on: it is copied into
  // boot_params at the same offset.
  static constexpr uint64_t kSetupHeaderOffset = 0x1f1;
  // The 64-bit entry point, from the start of the loaded kernel.
  static constexpr uint64_t kEntry64 = 0x200;

  std::span<const std::byte> header;
  std::span<const std::byte> kernel;  // what is loaded at `load_at`
  Gpa load_at;                        // where the kernel prefers to be
  uint64_t needs_bytes = 0;           // memory that it uses from load_at on before it knows its RAM
  uint64_t command_line_bytes = 0;    // the most that it takes, without the zero at the end
  Gpa initrd_end;                     // an initrd must end at or below this address
};

// Whether it says that it is an x86 kernel: then ParseBzImage says what is wrong with it, if anything.
bool LooksLikeBzImage(std::span<const std::byte> file);

// InvalidArgument says why the file cannot be started by the 64-bit boot protocol. The spans of the
// result are parts of `file`.
absl::StatusOr<BzImage> ParseBzImage(std::span<const std::byte> file);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_BZIMAGE_H_
