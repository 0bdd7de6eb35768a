#include "vmm/devices/virtio/backend.h"

#include <algorithm>

#include "mmu/base/check.h"

namespace underfoot::virtio {

template <class Copy>
bool Request::ForEachBuffer(const std::vector<Buffer>& buffers, uint64_t offset, uint64_t bytes,
                            const Copy& copy) {
  uint64_t done = 0;
  for (const Buffer& buffer : buffers) {
    if (done == bytes) break;
    if (offset >= buffer.bytes) {
      offset -= buffer.bytes;
      continue;
    }
    const uint64_t here = std::min(buffer.bytes - offset, bytes - done);
    if (!copy(buffer.gpa + offset, done, here)) return false;
    done += here;
    offset = 0;
  }
  UNDERFOOT_CHECK(done == bytes, "an access past the end of a request", done, bytes);
  return true;
}

bool Request::Read(uint64_t offset, std::span<std::byte> bytes) {
  return ForEachBuffer(chain_.readable, offset, bytes.size(),
                       [&](Gpa gpa, uint64_t done, uint64_t here) {
                         return access_.Read(reader_, gpa, bytes.subspan(done, here)).ok();
                       });
}

bool Request::Write(uint64_t offset, std::span<const std::byte> bytes) {
  return ForEachBuffer(chain_.writable, offset, bytes.size(),
                       [&](Gpa gpa, uint64_t done, uint64_t here) {
                         return access_.Write(reader_, gpa, bytes.subspan(done, here)).ok();
                       });
}

}  // namespace underfoot::virtio
