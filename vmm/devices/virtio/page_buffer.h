// A buffer for bytes of guest pages and of files. It begins in the middle of a page.
//
// Guest pages and the pages of a file begin at pages. By `rep movsb`, with which the C library and
// the kernel copy, some CPUs copy much slower if the destination begins 8 or 16 bytes behind the
// source within their pages ("Copies" in tests/bench/README.md), and memory of malloc begins 16 bytes
// behind a page. Half a page apart they copy at full speed, and the two sides compete for no set of
// the nearest cache.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_PAGE_BUFFER_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_PAGE_BUFFER_H_

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "mmu/base/types.h"

namespace underfoot::virtio {

class PageBuffer {
 public:
  PageBuffer() = default;
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  // Not initialized. If the buffer has to grow, what it contained is lost.
  std::span<std::byte> AtLeast(size_t bytes) {
    if (bytes > bytes_) {
      pages_ = std::make_unique_for_overwrite<Page[]>((kBegin + bytes - 1) / kPageSize + 1);
      data_ = reinterpret_cast<std::byte*>(pages_.get()) + kBegin;
      bytes_ = bytes;
    }
    return {data_, bytes};
  }
  // nullptr if nothing was ever asked for.
  std::byte* data() const { return data_; }

 private:
  static constexpr size_t kBegin = kPageSize / 2;
  struct alignas(kPageSize) Page {
    std::array<std::byte, kPageSize> bytes;
  };

  std::unique_ptr<Page[]> pages_;
  std::byte* data_ = nullptr;  // in them
  size_t bytes_ = 0;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_PAGE_BUFFER_H_
