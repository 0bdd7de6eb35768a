// The three areas of a split virtqueue in guest memory, as virtio 1.2 defines them (section 2.7).
// <linux/virtio_ring.h> has the same structs and is no C++.
//
//   descriptors   16 bytes each: where a buffer is, which side writes it, which descriptor follows
//   available     flags, index, heads[size], used event:     the driver writes, the device reads
//   used          flags, index, elements[size], avail event:  the device writes, the driver reads
//
// Thread safety: constants, values, pure functions. Driver and device access the words of a ring at
// the same time, so a word is accessed only through WordAt.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_RING_LAYOUT_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_RING_LAYOUT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot::virtio {

// Feature bits of the queues.
inline constexpr uint64_t kIndirectDescriptors = uint64_t{1} << 28;
inline constexpr uint64_t kEventIndex = uint64_t{1} << 29;
inline constexpr uint64_t kVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kInOrder = uint64_t{1} << 35;

struct Descriptor {
  static constexpr uint16_t kNext = 1;
  static constexpr uint16_t kDeviceWrites = 2;
  static constexpr uint16_t kIndirect = 4;

  uint64_t gpa;
  uint32_t bytes;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  uint32_t head;
  uint32_t written;  // bytes
};
static_assert(sizeof(UsedElement) == 8);

// Offsets within the available and within the used area.
inline constexpr uint64_t kRingFlags = 0;
inline constexpr uint64_t kRingIndex = 2;
inline constexpr uint64_t kRingEntries = 4;
// The only flag of the available area: the driver wants no interrupts.
inline constexpr uint16_t kNoInterrupt = 1;

// Where a driver has put the areas. `size` is the number of descriptors, heads and elements, a power of
// two.
struct RingLayout {
  uint16_t size = 0;
  Gpa descriptors;
  Gpa available;
  Gpa used;

  uint16_t SlotOf(uint16_t index) const { return index & static_cast<uint16_t>(size - 1); }
  uint64_t descriptor_bytes() const { return uint64_t{size} * sizeof(Descriptor); }
  uint64_t head_offset(uint16_t index) const {
    return kRingEntries + uint64_t{SlotOf(index)} * sizeof(uint16_t);
  }
  uint64_t used_event_offset() const { return kRingEntries + uint64_t{size} * sizeof(uint16_t); }
  uint64_t available_bytes() const { return used_event_offset() + sizeof(uint16_t); }
  uint64_t element_offset(uint16_t index) const {
    return kRingEntries + uint64_t{SlotOf(index)} * sizeof(UsedElement);
  }
  uint64_t avail_event_offset() const {
    return kRingEntries + uint64_t{size} * sizeof(UsedElement);
  }
  uint64_t used_bytes() const { return avail_event_offset() + sizeof(uint16_t); }
};

template <class Word>
std::atomic_ref<Word> WordAt(std::byte* area, uint64_t offset) {
  return std::atomic_ref<Word>(*reinterpret_cast<Word*>(area + offset));
}

// Whether a driver or a device that has published `now`, and `before` before that, passes the point
// at which the other side wants to be notified. Indices wrap at 2^16.
constexpr bool PassesEvent(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_RING_LAYOUT_H_
