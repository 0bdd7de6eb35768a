// Bytes on their way between a device and guest memory, and the copies that move them.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "mmu/base/types.h"
#include "vmm/devices/virtio/page_buffer.h"
#include "vmm/ram/guest_access.h"

namespace underfoot::virtio {

class StagedCopies {
 public:
  // Sixteen requests of 4 KiB with a header or a status each.
  static constexpr size_t kBytes = size_t{68} << 10;

  // Room for `bytes`; empty: there is none. Valid until Clear. Whole pages follow each other from the
  // beginning, so that they begin at pages (page_buffer.h); what is smaller lies at the end.
  std::span<std::byte> Allocate(size_t bytes) {
    buffer_.GrowTo(kBytes);
    const size_t lines = (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
    if (lines > kBytes - this->bytes()) return {};
    if (bytes < kPageSize) {
      at_end_ += lines;
      return {buffer_.data() + kBytes - at_end_, bytes};
    }
    at_begin_ += lines;
    return {buffer_.data() + at_begin_ - lines, bytes};
  }
  bool Owns(const std::byte* at) const {
    const std::less<> before;
    return buffer_.size() != 0 && !before(at, buffer_.data()) &&
           before(at, buffer_.data() + kBytes);
  }

  size_t bytes() const { return at_begin_ + at_end_; }
  void Add(const GuestCopy& copy) { copies_.push_back(copy); }
  std::span<const GuestCopy> copies() const { return copies_; }

  void ForgetCopiesFrom(size_t first) { copies_.resize(first); }
  void Clear() {
    at_begin_ = at_end_ = 0;
    copies_.clear();
  }

 private:
  static constexpr size_t kLineBytes = 64;

  PageBuffer buffer_;
  size_t at_begin_ = 0;  // bytes that are taken there
  size_t at_end_ = 0;
  std::vector<GuestCopy> copies_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_STAGED_COPIES_H_
