#include "vmm/boot/loader.h"

// Symbols that guest_image.S defines; the bytes of the file are between them.
extern "C" const std::byte underfoot_guest_image_begin[];
extern "C" const std::byte underfoot_guest_image_end[];

namespace underfoot {

std::span<const std::byte> EmbeddedGuest() {
  return {underfoot_guest_image_begin, underfoot_guest_image_end};
}

}  // namespace underfoot
