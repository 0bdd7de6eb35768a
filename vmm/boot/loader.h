// Loads a static 64-bit ELF image into guest memory. The image is not trusted: every offset, size
// and address is checked before anything is written.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_LOADER_H_
#define UNDERFOOT_VMM_BOOT_LOADER_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"

namespace underfoot {

using GpaRange = Range<Gpa>;

// Writes bytes into guest memory. It is called only with ranges inside the allowed one.
using GuestWriter = absl::FunctionRef<absl::Status(Gpa, std::span<const std::byte>)>;

// Writes all PT_LOAD segments, filled with zeroes up to their memory size, and returns the entry
// address. InvalidArgument names what is wrong with the image; then nothing has been written.
absl::StatusOr<Gpa> LoadElf(std::span<const std::byte> image, GpaRange allowed, GuestWriter write);

// Far more than the loadable part can have: most of a file may be debug information.
inline constexpr uint64_t kMaxImageFileBytes = uint64_t{256} << 20;

// Reads a file. A file of more than `limit` bytes is refused before it is read.
absl::StatusOr<std::vector<std::byte>> ReadImageFile(const std::string& path,
                                                     uint64_t limit = kMaxImageFileBytes);

// ReadImageFile and LoadElf; each error names the file.
absl::StatusOr<Gpa> LoadElfFile(const std::string& path, GpaRange allowed, GuestWriter write);

// The test guest that is built into this program.
std::span<const std::byte> EmbeddedGuest();

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_LOADER_H_
