// Loads a static 64-bit ELF image into guest memory. The image is hostile until proven otherwise:
// every offset, size and address is checked before anything is written.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_LOADER_H_
#define UNDERFOOT_VMM_LOADER_H_

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"

namespace underfoot {

using GpaRange = Range<Gpa>;

// Puts bytes into guest memory. Called with ranges inside what the loader was allowed only.
using GuestWriter = absl::FunctionRef<absl::Status(Gpa, std::span<const std::byte>)>;

// Writes all PT_LOAD segments, zero-filled to their memory size, and returns the entry.
// InvalidArgument tells what is wrong with the image; nothing has been written then.
absl::StatusOr<Gpa> LoadElf(std::span<const std::byte> image, GpaRange allowed, GuestWriter write);

// A file's content, at most `limit` bytes: an image larger than guest memory is refused early.
absl::StatusOr<std::vector<std::byte>> ReadImageFile(const std::string& path, uint64_t limit);

// The test guest that is built into this program.
std::span<const std::byte> EmbeddedGuest();

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_LOADER_H_
