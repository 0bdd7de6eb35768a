// Reads parts of an image that is not trusted.
//
// Thread safety: a pure function.

#ifndef UNDERFOOT_VMM_BOOT_IMAGE_BYTES_H_
#define UNDERFOOT_VMM_BOOT_IMAGE_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace underfoot {

// Returns a copy, because the image may have any alignment; nullopt if the image does not contain
// all of it.
template <class T>
std::optional<T> ReadAt(std::span<const std::byte> image, uint64_t offset) {
  if (offset > image.size() || sizeof(T) > image.size() - offset) return std::nullopt;
  T value;
  std::memcpy(&value, image.data() + offset, sizeof(T));
  return value;
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_IMAGE_BYTES_H_
