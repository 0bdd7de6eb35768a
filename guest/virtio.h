// Drivers of virtio devices without interrupts: the registers of virtio-mmio, and a split virtqueue
// whose used ring is polled. The rings lie in data memory, so they are accessed by whole 8-byte words
// only. This side knows what it has written and keeps copies of it.

#ifndef UNDERFOOT_GUEST_VIRTIO_H_
#define UNDERFOOT_GUEST_VIRTIO_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// The step that failed: Mismatch::word of the kind kDevice.
enum class DeviceStep : uint64_t {
  kFeatures = 1,  // the device does not accept them
  kQueue = 2,     // it has no such queue, or one that is too short
  kRunning = 3,   // it does not run
  kHead = 4,      // an answer to no request
  kWritten = 5,   // another number of bytes was written
  kStatus = 6,    // a block request with another status
  kNoAnswer = 7,  // the device asks for a reset, and the requests are lost
  kIdentity = 8,  // the answer to get-id
  kEcho = 9,      // other bytes came back from the console
  kMemory = 10,   // another answer to a request of the memory device
};

void DeviceMismatch(Context& context, uint64_t registers, DeviceStep step, uint64_t expected,
                    uint64_t found);

// The gpa of the registers of the first device with this id; 0: there is none.
uint64_t FindDevice(const abi::BootInfo& boot, uint32_t id);

// Resets the device and accepts those of `features` that it offers. Returns what was accepted; 0:
// the device refuses.
uint64_t Negotiate(uint64_t registers, uint64_t features);

// To be accepted by Negotiate for a queue whose answers are taken in order (Virtqueue::TakeInOrder).
inline constexpr uint64_t kInOrderFeature = uint64_t{1} << 35;

// The state of a queue that its driver keeps. All zero at the start.
class Virtqueue {
 public:
  static constexpr uint64_t kSize = 16;
  static constexpr uint64_t kRingPages = 3;
  // The flags of a descriptor.
  static constexpr uint16_t kNext = 1;
  static constexpr uint16_t kDeviceWrites = 2;
  static constexpr uint16_t kIndirect = 4;
  // A driver that has polled for an answer so often, which is about a second, looks at the device.
  static constexpr uint64_t kLooks = 100000;

  // The three areas lie at `rings`, `spacing` bytes apart, and must be all zeroes. False: the device
  // has no such queue.
  bool Place(uint64_t registers, uint64_t queue, uint64_t rings, uint64_t spacing = kPageBytes);
  // The driver has accepted IN_ORDER. Before the first Offer.
  void TakeInOrder() { in_order_ = true; }

  void SetDescriptor(uint64_t index, uint64_t gpa, uint32_t bytes, uint16_t flags, uint16_t next);
  // Makes the chain at `head` available, and notifies the device if it wants that. Asks for an
  // interrupt for the next answer.
  void Offer(uint16_t head);

  struct Answer {
    bool any;
    uint32_t head;
    uint32_t written;
    // The answer has no element of its own, so `written` is 0: all that the device may write is
    // written. Only in order.
    bool whole;
  };
  Answer Take();

  uint64_t registers() const { return registers_; }

 private:
  Answer NextOfRun();

  uint64_t registers_;
  uint64_t rings_;
  uint64_t spacing_;
  uint64_t queue_;
  // The available ring as it was written: flags, index, heads, used event.
  union {
    uint16_t halves_[20];
    uint64_t words_[5];
  };
  uint16_t taken_;
  bool in_order_;
  // The answers up to this one have one element, which names the last of them.
  uint16_t run_end_;
  uint32_t run_written_;
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_VIRTIO_H_
