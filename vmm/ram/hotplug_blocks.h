// Which blocks of the hot-plug region are plugged, that is, memory of the guest (virtio-mem).
//
// The region is the end of guest RAM. Its memslot is there from the start, so plugging changes no
// memslot: it changes who may use the memory. The devices and all other accesses of the machine itself
// look here, and find no RAM in a block that is not plugged.
//
//   unplug                                     an access of the machine
//   1  the blocks are not plugged any more     a  enters a section, or announces a system call
//   2  a request announced over them?          b  all blocks plugged? else no RAM: leaves, withdraws
//      then plugged again: busy                c  copies, or makes the system call
//   3  a bracket over them: discarded
//
// Store-buffering pair of 1 and 2 with the announcement (a) and b: either 2 finds the announcement, or b
// finds the block unplugged. A section is a reader, for which the Begin of 3 waits; if Begin does not see
// it, it began so late that b sees 1. Without b, or with b before a: a page of the block is there again
// after 3, with bytes of the device.
//
// Thread safety: Set by one thread at a time; all else by any thread.

#ifndef UNDERFOOT_VMM_RAM_HOTPLUG_BLOCKS_H_
#define UNDERFOOT_VMM_RAM_HOTPLUG_BLOCKS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "vmm/base/backing.h"

namespace underfoot {

class HotplugBlocks {
 public:
  // `bytes` is a whole number of blocks. No block is plugged.
  HotplugBlocks(Gpa begin, uint64_t bytes)
      : begin_(begin),
        count_(bytes / kHotplugBlockBytes),
        plugged_(std::make_unique<std::atomic<bool>[]>(count_)) {}

  Gpa begin() const { return begin_; }
  uint64_t bytes() const { return count_ * kHotplugBlockBytes; }
  size_t count() const { return count_; }
  // Relaxed: for statistics and for the thread that calls Set.
  uint64_t plugged_bytes() const { return plugged_count_.load(kRelaxed) * kHotplugBlockBytes; }
  bool is_plugged(size_t block) const { return plugged_[block].load(kStoreLoad); }

  // Whether each block that has a byte of the range is plugged. The range lies in the region.
  bool ArePlugged(Gpa gpa, uint64_t bytes) const {
    if (bytes == 0) return true;
    const size_t last = (gpa - begin_ + bytes - 1) / kHotplugBlockBytes;
    for (size_t block = (gpa - begin_) / kHotplugBlockBytes; block <= last; ++block) {
      if (!is_plugged(block)) return false;
    }
    return true;
  }

  void Set(size_t first, size_t count, bool plugged) {
    for (size_t block = first; block < first + count; ++block) {
      if (plugged_[block].exchange(plugged, kStoreLoad) == plugged) continue;
      plugged_count_.store(plugged_count_.load(kRelaxed) + (plugged ? 1 : ~uint64_t{0}), kRelaxed);
    }
  }

 private:
  const Gpa begin_;
  const size_t count_;
  const std::unique_ptr<std::atomic<bool>[]> plugged_;
  std::atomic<uint64_t> plugged_count_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_HOTPLUG_BLOCKS_H_
