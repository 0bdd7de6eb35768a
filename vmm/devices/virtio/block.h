// The virtio block device (virtio 1.2, section 5.2): read, write, flush, discard, write zeroes, get
// id; several queues.
//
// A read of Request::kLeastDirectBytes and more is one preadv into guest memory, announced
// (mmu/direct_requests.h). If that is not possible now, or a bracket has met it, and for all else, a
// transfer goes through a buffer: from the file into the buffer, holding nothing, and from the
// buffer into guest memory, in sections; or the other way round. A write never goes straight from
// guest memory: a pwritev that waits for a page holds the lock of the file meanwhile.
//
// The world fails: the file has an I/O error or no space, or has become shorter; the memory of the
// guest cannot be brought in. The driver gets VIRTIO_BLK_S_IOERR, and the request is counted.
//
// Thread safety: as Backend.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_BLOCK_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_BLOCK_H_

#include <linux/virtio_blk.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/disk.h"

namespace underfoot::virtio {

class Block final : public Backend {
 public:
  // A request is transferred in pieces of this size.
  static constexpr uint64_t kBufferBytes = uint64_t{256} << 10;
  static constexpr uint64_t kDirectBytes = uint64_t{1} << 20;
  static constexpr uint32_t kMaxSegments = 254;  // a header and a status come with them
  static constexpr uint32_t kMaxRanges = 16;     // of a discard or of write zeroes

  // `id` is the answer to get-id, cut to 20 bytes.
  Block(std::unique_ptr<Disk> disk, uint16_t queues, const std::string& id);

  std::string name() const override { return "blk"; }
  uint32_t device_id() const override;
  uint64_t features() const override;
  uint16_t queues() const override { return queues_; }
  std::span<const std::byte> config() const override {
    return std::as_bytes(std::span(&config_, 1));
  }
  Served Serve(Request& request) override;
  std::string file() const override { return disk_->file(); }
  std::string first_error() const override ABSL_LOCKS_EXCLUDED(mutex_);

  Disk& disk() { return *disk_; }

 private:
  // VIRTIO_BLK_S_* for the result of an operation on the file: 0 or errno.
  uint8_t StatusOf(Request& request, std::string_view operation, uint64_t offset, int error)
      ABSL_LOCKS_EXCLUDED(mutex_);
  uint8_t Carry(Request& request, uint64_t data_bytes);
  uint8_t ReadIntoGuest(Request& request, uint64_t sector, uint64_t bytes);
  uint8_t ReadByBuffer(Request& request, uint64_t offset, uint64_t first, uint64_t bytes);
  uint8_t WriteFromGuest(Request& request, uint64_t sector, uint64_t bytes);
  uint8_t ForEachRange(Request& request, bool discard);
  bool Holds(uint64_t sector, uint64_t bytes) const;

  const std::unique_ptr<Disk> disk_;
  const uint16_t queues_;
  const std::string id_;
  virtio_blk_config config_{};

  // Guards: the text. Order: innermost. Held across: nothing that waits.
  mutable absl::Mutex mutex_;
  std::string first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_BLOCK_H_
