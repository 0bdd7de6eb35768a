// Bytes on their way between a device and guest memory, and the copies that move them.
//
//   0                                                             kBytes
//   | payload, each at a cache line -->              <-- headers, statuses |
//
// A copy whose two sides lie differently in their cache lines takes longer.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "vmm/devices/virtio/page_buffer.h"
#include "vmm/ram/guest_access.h"

namespace underfoot::virtio {

class StagedCopies {
 public:
  // Sixteen requests of 4 KiB with a header or a status each.
  static constexpr size_t kBytes = size_t{68} << 10;
  static constexpr size_t kLine = 64;

  // Room for `bytes`; empty: there is none. Valid until Clear.
  std::span<std::byte> Allocate(size_t bytes) {
    std::byte* const room = room_.AtLeast(kBytes).data();
    if (bytes < kLine) {
      if (bytes > behind_ - front_) return {};
      behind_ -= bytes;
      return {room + behind_, bytes};
    }
    const size_t lines = (bytes + kLine - 1) / kLine * kLine;
    if (bytes > kBytes || lines > behind_ - front_) return {};
    std::byte* const at = room + front_;
    front_ += lines;
    return {at, bytes};
  }
  // Whether `at` lies in this buffer.
  bool Owns(const std::byte* at) const {
    const std::byte* const begin = room_.data();
    if (begin == nullptr) return false;
    const std::less<> before;
    return !before(at, begin) && before(at, begin + kBytes);
  }

  // Of payload, headers and statuses.
  size_t bytes() const { return front_ + (kBytes - behind_); }
  void Add(const GuestCopy& copy) { copies_.push_back(copy); }
  std::span<const GuestCopy> copies() const { return copies_; }

  void ForgetCopiesFrom(size_t first) {
    if (first < copies_.size()) copies_.resize(first);
  }
  void Clear() {
    front_ = 0;
    behind_ = kBytes;
    copies_.clear();
  }

 private:
  PageBuffer room_;         // made when it is needed first
  size_t front_ = 0;        // the bytes in use at its beginning
  size_t behind_ = kBytes;  // where those at its end begin
  std::vector<GuestCopy> copies_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
