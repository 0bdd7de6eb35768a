// The driver's side of a virtqueue, as plain as it can be: it accesses the rings by hva, as a guest
// does, and can break every rule.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_DEVICES_FAKE_DRIVER_H_
#define UNDERFOOT_TESTS_DEVICES_FAKE_DRIVER_H_

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "tests/memory/memory_side.h"
#include "vmm/devices/virtio/ring_layout.h"

namespace underfoot::testing {

class FakeDriver {
 public:
  // The rings lie in the pages `first`, `first` + 1 and `first` + 2 of the side's slot.
  FakeDriver(MemorySide& side, uint16_t size = 16, uint64_t first = 0)
      : side_(&side),
        layout_{.size = size,
                .descriptors = side.GpaAt(first),
                .available = side.GpaAt(first + 1),
                .used = side.GpaAt(first + 2)} {
    for (uint64_t i = 0; i < 3; ++i) {
      std::memset(PointerOf(side.PageAt(first + i)), 0, kPageSize);
    }
  }

  const virtio::RingLayout& layout() const { return layout_; }
  std::byte* At(Gpa gpa) const {
    return static_cast<std::byte*>(PointerOf(side_->memory->hvas().begin + gpa.value));
  }

  void SetDescriptor(uint16_t index, const virtio::Descriptor& descriptor) {
    const auto words = std::bit_cast<std::array<uint64_t, 2>>(descriptor);
    for (uint64_t i = 0; i < words.size(); ++i) {
      virtio::WordAt<uint64_t>(At(layout_.descriptors), index * sizeof(descriptor) + i * 8)
          .store(words[i], kRelaxed);
    }
  }
  // A chain of these buffers in descriptors `head`, `head` + 1 and so on.
  void SetChain(uint16_t head, const std::vector<virtio::Descriptor>& buffers) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      virtio::Descriptor descriptor = buffers[i];
      const auto next = static_cast<uint16_t>(head + i + 1);
      if (i + 1 < buffers.size()) {
        descriptor.flags = static_cast<uint16_t>(descriptor.flags | virtio::Descriptor::kNext);
        descriptor.next = next;
      }
      SetDescriptor(static_cast<uint16_t>(head + i), descriptor);
    }
  }
  // Makes the chain available.
  void Offer(uint16_t head) {
    Word(layout_.available, layout_.head_offset(offered_)).store(head, kRelaxed);
    SetIndex(++offered_);
  }
  void SetIndex(uint16_t index) {
    Word(layout_.available, virtio::kRingIndex).store(index, kStoreLoad);
  }
  void SetHead(uint16_t index, uint16_t head) {
    Word(layout_.available, layout_.head_offset(index)).store(head, kRelaxed);
  }
  void SetAvailableFlags(uint16_t flags) {
    Word(layout_.available, virtio::kRingFlags).store(flags, kStoreLoad);
  }
  void SetUsedEvent(uint16_t event) {
    Word(layout_.available, layout_.used_event_offset()).store(event, kStoreLoad);
  }
  uint16_t AvailEvent() const {
    return Word(layout_.used, layout_.avail_event_offset()).load(kStoreLoad);
  }
  uint16_t UsedIndex() const { return Word(layout_.used, virtio::kRingIndex).load(kAcquire); }
  virtio::UsedElement Used(uint16_t index) const {
    virtio::UsedElement element;
    std::memcpy(&element, At(layout_.used) + layout_.element_offset(index), sizeof(element));
    return element;
  }
  // The next element that the device has published; nullopt: there is none.
  std::optional<virtio::UsedElement> Take() {
    if (UsedIndex() == taken_) return std::nullopt;
    return Used(taken_++);
  }
  // The same for a driver that has accepted kInOrder. An element stands for all requests from the
  // oldest one to the one that it names; those before that one are written whole, all `whole` bytes.
  std::optional<virtio::UsedElement> TakeInOrder(uint32_t whole) {
    if (UsedIndex() == taken_) return std::nullopt;
    if (!run_.has_value()) run_ = Used(taken_);
    const uint32_t oldest = Word(layout_.available, layout_.head_offset(taken_)).load(kRelaxed);
    virtio::UsedElement element{oldest, whole};
    if (run_->head == oldest) element = *std::exchange(run_, std::nullopt);
    ++taken_;
    return element;
  }
  // The last element has named none of the requests that were taken since.
  bool InRun() const { return run_.has_value(); }

 private:
  std::atomic_ref<uint16_t> Word(Gpa area, uint64_t offset) const {
    return virtio::WordAt<uint16_t>(At(area), offset);
  }

  MemorySide* side_;
  virtio::RingLayout layout_;
  uint16_t offered_ = 0;
  uint16_t taken_ = 0;
  std::optional<virtio::UsedElement> run_;  // that is not taken whole yet
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_DEVICES_FAKE_DRIVER_H_
