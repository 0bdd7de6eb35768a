// Hot-plug of memory: virtio-mem (virtio 1.2, section 5.15). The guest plugs and unplugs blocks of the
// hot-plug region, as many as the host asks for.
//
//   SetRequested ──► requested_size, an interrupt ──► the driver plugs or unplugs blocks: requests
//   plug      discarded, so that it reads as zeroes; then the guest and the devices may use it
//   unplug    waits a moment for requests that are announced over it; then no device may use it; busy if
//             one is announced over it after all; discarded; then the answer
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
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"
#include "mmu/direct_requests.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/change_time.h"
#include "vmm/devices/virtio/give_back.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/stats/stats.h"

namespace underfoot::virtio {

class Mem final : public Backend {
 public:
  // How long an unplug waits for system calls of other devices. A driver that finds its blocks busy tries
  // again, Linux only after 50 seconds. A call that takes longer than this may take for ever.
  static constexpr absl::Duration kPatience = absl::Milliseconds(100);

  // `memory` has a hot-plug region.
  Mem(const GuestMemory& memory, const DirectRequests& requests, GiveBack::Discard discard,
      absl::Duration patience = kPatience);

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
  void RingBegins(uint16_t) override {
    unplugging_.clear();
    done_.reset();
  }
  Served Serve(Request& request) override;
  // A block that was plugged must not be plugged again.
  bool may_serve_again() const override { return false; }

 private:
  struct Blocks {
    size_t first = 0;
    size_t count = 0;
  };
  virtio_mem_resp CarryOut(const virtio_mem_req& asked, Request& request);
  std::optional<Blocks> BlocksAt(uint64_t gpa, uint16_t count) const;
  size_t PluggedIn(const Blocks& blocks) const;
  HvaRange HvasOf(const Blocks& blocks) const;
  uint16_t Plug(const Blocks& blocks, Request& request);
  uint16_t Unplug(std::vector<Blocks> runs, Request& request);
  uint16_t UnplugAll(Request& request);
  bool TryMarkUnplugged(std::span<const Blocks> runs);
  bool WaitUntilWithdrawn(std::span<const Blocks> runs, absl::Duration end, Request& request);
  bool AnnouncedOver(std::span<const Blocks> runs) const;
  uint16_t FinishUnplug(Request& request);
  void Give(const Blocks& blocks, Request& request);

  const GuestMemory& memory_;
  HotplugBlocks& blocks_;
  const DirectRequests& requests_;
  const GiveBack give_back_;
  const absl::Duration patience_;
  // What a Serve that has thrown std::bad_alloc leaves to the next one, which has the same request: blocks
  // that are marked as unplugged and not discarded yet, and an answer that is not written yet. Of the
  // worker.
  std::vector<Blocks> unplugging_;
  std::optional<virtio_mem_resp> done_;
  // Release and acquire: a driver that reads the new generation reads the new size.
  std::atomic<uint64_t> requested_{0};
  std::atomic<uint32_t> generation_{0};
  ChangeTime changed_;
  Counter plugged_;
  Counter unplugged_;
  Counter waits_;
  Counter busy_;
  Counter refused_;
  Counter kept_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_MEM_H_
