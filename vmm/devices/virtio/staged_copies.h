// Bytes on their way between a device and guest memory, and the copies that move them.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "vmm/ram/guest_access.h"

namespace underfoot::virtio {

class StagedCopies {
 public:
  // Sixteen requests of 4 KiB with a header or a status each.
  static constexpr size_t kBytes = size_t{68} << 10;

  // Room for `bytes`; empty: there is none. Valid until Clear.
  std::span<std::byte> Allocate(size_t bytes) {
    if (bytes_.empty()) bytes_.resize(kBytes);
    if (bytes > kBytes - used_) return {};
    const std::span<std::byte> room = std::span(bytes_).subspan(used_, bytes);
    used_ += bytes;
    return room;
  }
  bool Owns(const std::byte* at) const {
    const std::less<> before;
    return used_ != 0 && !before(at, bytes_.data()) && before(at, bytes_.data() + used_);
  }

  size_t bytes() const { return used_; }
  void Add(const GuestCopy& copy) { copies_.push_back(copy); }
  std::span<const GuestCopy> copies() const { return copies_; }

  void ForgetCopiesFrom(size_t first) { copies_.resize(first); }
  void Clear() {
    used_ = 0;
    copies_.clear();
  }

 private:
  std::vector<std::byte> bytes_;
  size_t used_ = 0;
  std::vector<GuestCopy> copies_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
