// Hot-plug of memory: virtio-mem (virtio 1.2, section 5.15). The guest plugs and unplugs blocks of the
// hot-plug region, as many as the host asks for.
//
//   SetRequested ──► requested_size, an interrupt ──► the driver plugs or unplugs blocks: requests
//   plug      discarded, so that it reads as zeroes; then the guest and the devices may use it
//   unplug    no device may use it; busy if a request is announced over it; discarded; then the answer
//
// The memslot of the region is there from the start, so an access of a vCPU to a block that is not
// plugged is no error: it finds zeroes, and what it writes is lost when the block is plugged. The driver
// must have accepted that it does not do that (VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE). A device finds no RAM
// there (GuestMemory::IsRam).
//
// A block stays as it is when the driver resets the device, as the standard demands.
//
// Thread safety: any thread.
// Invariants: I2 (a block goes back to the host inside a bracket, before the guest sees the answer).

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_MEM_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_MEM_H_

#include <linux/virtio_mem.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"
#include "mmu/direct_requests.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/change_time.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/stats/stats.h"

namespace underfoot::virtio {

class Mem final : public Backend {
 public:
  // Gives the content of a range of guest memory back to the host.
  using Discard = std::function<absl::Status(HvaRange)>;

  // `memory` has a hot-plug region.
  Mem(const GuestMemory& memory, const DirectRequests& requests, Discard discard);

  // How much memory the driver shall have plugged. InvalidArgument: more than there is room for, or no
  // whole number of blocks.
  [[nodiscard]] absl::Status SetRequested(uint64_t bytes);
  HotplugStats Stats() const;

  std::string name() const override { return "mem"; }
  uint32_t device_id() const override;
  uint64_t features() const override;
  uint64_t required_features() const override { return features(); }
  uint16_t queues() const override { return 1; }
  std::span<const std::byte> config() const override { return {}; }
  void ReadConfig(uint64_t offset, std::span<std::byte> data) const override;
  uint32_t config_generation() const override { return generation_.load(kAcquire); }
  void DriverBegins(uint64_t) override { done_.reset(); }
  Served Serve(Request& request) override;
  // A block that was plugged must not be plugged again.
  bool may_serve_again() const override { return false; }

 private:
  struct Blocks {
    size_t first = 0;
    size_t count = 0;
  };
  // What was done for a request whose answer could not be written yet.
  struct Done {
    virtio_mem_req request;
    virtio_mem_resp response;
  };

  virtio_mem_resp CarryOut(const virtio_mem_req& asked, Request& request);
  std::optional<Blocks> BlocksAt(uint64_t gpa, uint16_t count) const;
  size_t PluggedIn(const Blocks& blocks) const;
  HvaRange HvasOf(const Blocks& blocks) const;
  uint16_t Plug(const Blocks& blocks, Request& request);
  uint16_t Unplug(std::span<const Blocks> runs, Request& request);
  uint16_t UnplugAll(Request& request);
  void Give(const Blocks& blocks, Request& request);

  const GuestMemory& memory_;
  HotplugBlocks& blocks_;
  const DirectRequests& requests_;
  const Discard discard_;
  std::optional<Done> done_;  // of the worker; while it is quiet, of the thread that starts it
  // Release and acquire: a driver that reads the new generation reads the new size.
  std::atomic<uint64_t> requested_{0};
  std::atomic<uint32_t> generation_{0};
  ChangeTime changed_;
  Counter plugged_;
  Counter unplugged_;
  Counter busy_;
  Counter refused_;
  Counter kept_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_MEM_H_
