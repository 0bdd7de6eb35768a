// What a kind of device does: its identity, its configuration, and how it serves a request. All
// else (registers, rings, threads) is the same for every device.
//
// Thread safety: the const functions may be called by any thread. Serve is called by the worker of
// each queue, for several queues at once.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "mmu/base/stats.h"
#include "vmm/devices/virtio/virtqueue.h"
#include "vmm/ram/guest_access.h"

namespace underfoot::virtio {

// The counters of one queue. Any thread may read them.
struct QueueCounters {
  Counter requests;          // served
  Counter errors;            // of them, answered with an error
  Counter to_guest_bytes;    // payload
  Counter from_guest_bytes;  // payload
  Counter bounced;           // transfers between a file and guest memory through a buffer
  Counter kicks;             // notifications by the driver
  Counter interrupts;        // raised
  Counter away;              // steps put off because the memory of a ring was away
};

// The payload of a chain as two strings of bytes: the one that the device reads, and the one that it
// writes. Each copy goes page by page, in a section of its own; the caller holds none.
class Request {
 public:
  // `scratch` is memory of the worker, kept from one request to the next.
  Request(GuestAccess& access, Reader& reader, const Chain& chain, QueueCounters& counters,
          std::vector<std::byte>& scratch)
      : access_(access), reader_(reader), chain_(chain), counters_(counters), scratch_(scratch) {}

  uint64_t readable_bytes() const { return chain_.readable_bytes; }
  uint64_t writable_bytes() const { return chain_.writable_bytes; }

  // `offset + bytes.size()` is at most readable_bytes() or writable_bytes(). False: the memory
  // cannot be brought in, or is read-only. Part of the bytes may have been copied then.
  [[nodiscard]] bool Read(uint64_t offset, std::span<std::byte> bytes);
  [[nodiscard]] bool Write(uint64_t offset, std::span<const std::byte> bytes);

  QueueCounters& counters() { return counters_; }
  // A buffer of the VMM's own. It is the same one at each call.
  std::span<std::byte> Scratch(uint64_t bytes) {
    if (scratch_.size() < bytes) scratch_.resize(bytes);
    return std::span(scratch_).first(bytes);
  }

 private:
  template <class Copy>
  static bool ForEachBuffer(const std::vector<Buffer>& buffers, uint64_t offset, uint64_t bytes,
                            const Copy& copy);

  GuestAccess& access_;
  Reader& reader_;
  const Chain& chain_;
  QueueCounters& counters_;
  std::vector<std::byte>& scratch_;
};

struct Served {
  // False: the chain cannot be answered at all, which breaks the rules of the device.
  bool answered = true;
  // The bytes at the beginning of the writable part that were written.
  uint32_t written = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;
  virtual uint32_t device_id() const = 0;  // VIRTIO_ID_*
  virtual uint64_t features() const = 0;   // the bits of this kind of device
  virtual uint16_t queues() const = 0;
  // The fields of the configuration, which do not change. The driver cannot write them.
  virtual std::span<const std::byte> config() const = 0;

  // Holds nothing, and may sleep in system calls on memory of its own.
  virtual Served Serve(Request& request) = 0;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_BACKEND_H_
