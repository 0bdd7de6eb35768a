#include "vmm/loader.h"

// Named by guest_image.S, where the file's bytes lie between them.
extern "C" const std::byte underfoot_guest_image_begin[];
extern "C" const std::byte underfoot_guest_image_end[];

namespace underfoot {

std::span<const std::byte> EmbeddedGuest() {
  return {underfoot_guest_image_begin, underfoot_guest_image_end};
}

}  // namespace underfoot
