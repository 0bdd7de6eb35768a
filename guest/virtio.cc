#include "guest/virtio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

namespace underfoot::guest {
namespace {

constexpr uint64_t kEventIndex = uint64_t{1} << 29;
constexpr uint64_t kVersion1 = uint64_t{1} << 32;
constexpr uint32_t kMagic = 0x74726976;

constexpr uint64_t kIndex = 1;  // of the halves
constexpr uint64_t kHeads = 2;
constexpr uint64_t kUsedEvent = kHeads + Virtqueue::kSize;

void SetGpa(uint64_t registers, uint64_t low, uint64_t gpa) {
  Store32(registers + low, static_cast<uint32_t>(gpa));
  Store32(registers + low + 4, static_cast<uint32_t>(gpa >> 32));
}

}  // namespace

void DeviceMismatch(Context& context, uint64_t registers, DeviceStep step, uint64_t expected,
                    uint64_t found) {
  Mismatch(context, {.gfn = registers / kPageBytes,
                     .word = static_cast<uint64_t>(step),
                     .expected = expected,
                     .found = found,
                     .kind = abi::MismatchKind::kDevice});
}

uint64_t FindDevice(const abi::BootInfo& boot, uint32_t id) {
  for (uint64_t i = 0; i < boot.virtio_devices; ++i) {
    const uint64_t registers = abi::kMmioGpa + i * abi::kMmioDeviceBytes;
    if (Load32(registers + VIRTIO_MMIO_MAGIC_VALUE) == kMagic &&
        Load32(registers + VIRTIO_MMIO_DEVICE_ID) == id) {
      return registers;
    }
  }
  return 0;
}

uint64_t Negotiate(uint64_t registers, uint64_t features) {
  Store32(registers + VIRTIO_MMIO_STATUS, 0);
  while (Load32(registers + VIRTIO_MMIO_STATUS) != 0) Pause();
  constexpr uint32_t kFound = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
  Store32(registers + VIRTIO_MMIO_STATUS, kFound);
  features |= kEventIndex | kVersion1;
  uint64_t accepted = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    Store32(registers + VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    const uint64_t offered = Load32(registers + VIRTIO_MMIO_DEVICE_FEATURES);
    accepted |= offered << (32 * half) & features;
    Store32(registers + VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
    Store32(registers + VIRTIO_MMIO_DRIVER_FEATURES,
            static_cast<uint32_t>(accepted >> (32 * half)));
  }
  Store32(registers + VIRTIO_MMIO_STATUS, kFound | VIRTIO_CONFIG_S_FEATURES_OK);
  const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
  return (status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 ? accepted : 0;
}

bool Virtqueue::Place(uint64_t registers, uint64_t queue, uint64_t rings, uint64_t spacing) {
  registers_ = registers;
  rings_ = rings;
  spacing_ = spacing;
  queue_ = queue;
  Store32(registers + VIRTIO_MMIO_QUEUE_SEL, static_cast<uint32_t>(queue));
  if (Load32(registers + VIRTIO_MMIO_QUEUE_NUM_MAX) < kSize) return false;
  Store32(registers + VIRTIO_MMIO_QUEUE_NUM, kSize);
  SetGpa(registers, VIRTIO_MMIO_QUEUE_DESC_LOW, rings);
  SetGpa(registers, VIRTIO_MMIO_QUEUE_AVAIL_LOW, rings + spacing);
  SetGpa(registers, VIRTIO_MMIO_QUEUE_USED_LOW, rings + 2 * spacing);
  Store32(registers + VIRTIO_MMIO_QUEUE_READY, 1);
  return true;
}

void Virtqueue::SetDescriptor(uint64_t index, uint64_t gpa, uint32_t bytes, uint16_t flags,
                              uint16_t next) {
  Store(rings_ + 16 * index, gpa);
  Store(rings_ + 16 * index + 8, bytes | uint64_t{flags} << 32 | uint64_t{next} << 48);
}

// x86 keeps the order of the stores, and KVM that of the accesses that it emulates: descriptors,
// then head, then index. Head and index may be in one word.
void Virtqueue::Offer(uint16_t head) {
  const uint64_t available = rings_ + spacing_;
  const auto store = [&](uint64_t half) { Store(available + half / 4 * 8, words_[half / 4]); };
  const uint16_t before = halves_[kIndex];
  const auto now = static_cast<uint16_t>(before + 1);
  halves_[kHeads + before % kSize] = head;
  halves_[kUsedEvent] = taken_;
  store(kUsedEvent);
  if ((kHeads + before % kSize) / 4 != kIndex / 4) store(kHeads + before % kSize);
  halves_[kIndex] = now;
  store(kIndex);
  StoreLoadFence();
  // The avail event follows the elements: the upper half of word kSize.
  const auto event = static_cast<uint16_t>(Load(rings_ + 2 * spacing_ + 8 * kSize) >> 32);
  if (event == before) {
    Store32(registers_ + VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<uint32_t>(queue_));
  }
}

// Element n: its head is the upper half of word n of the used ring, the number of bytes the lower
// half of the next one.
Virtqueue::Answer Virtqueue::Take() {
  const uint64_t used = rings_ + 2 * spacing_;
  const auto published = static_cast<uint16_t>(Load(used) >> 16);
  if (published == taken_) return {false, 0, 0, false};
  if (in_order_ && taken_ != run_end_) return NextOfRun();
  const uint64_t element = used + 8 * (taken_ % kSize);
  const auto head = static_cast<uint32_t>(Load(element) >> 32);
  const auto written = static_cast<uint32_t>(Load(element + 8));
  if (!in_order_) {
    ++taken_;
    return {true, head, written, false};
  }
  // Section 2.7.9: the element lies in the place of the first answer of its run.
  uint16_t last = taken_;
  while (last != published && halves_[kHeads + last % kSize] != head) ++last;
  if (last == published) {  // an answer to no request
    run_end_ = ++taken_;
    return {true, head, written, false};
  }
  run_end_ = static_cast<uint16_t>(last + 1);
  run_written_ = written;
  return NextOfRun();
}

// The heads in the available ring are those of the answers, in the same places.
Virtqueue::Answer Virtqueue::NextOfRun() {
  const uint32_t head = halves_[kHeads + taken_ % kSize];
  const bool last = ++taken_ == run_end_;
  return {true, head, last ? run_written_ : 0, !last};
}

}  // namespace underfoot::guest
