// The virtio memory balloon (virtio 1.2, section 5.5): the guest gives pages to the host and takes them
// back. Inflate, deflate (also when the guest is out of memory) and free-page reporting.
//
//   SetTarget ──► num_pages, an interrupt ──► the driver inflates:  frame numbers on queue 0
//                                                       deflates:   frame numbers on queue 1
//                                                       reports free pages: buffers on queue 2
//   the driver writes `actual` when it has changed
//
// A page that is inflated or reported is discarded before the device answers. The discard is a change
// of host memory like any other: a bracket over the page, made by the worker outside of sections. The
// guest finds zeroes when it uses the page again. Pages that the host cannot give back (a part of a
// huge page) keep their content; the standard leaves that open, and `kept` counts them.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_BALLOON_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_BALLOON_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/stats/stats.h"

namespace underfoot::virtio {

class Balloon final : public Backend {
 public:
  static constexpr uint16_t kInflate = 0;
  static constexpr uint16_t kDeflate = 1;
  static constexpr uint16_t kReporting = 2;

  // Gives the content of a range of guest memory back to the host.
  using Discard = std::function<absl::Status(HvaRange)>;

  Balloon(const GuestMemory& memory, Discard discard)
      : memory_(memory), discard_(std::move(discard)) {
    NoteChange();
  }

  // How much memory the driver shall give to the host; rounded down to pages. InvalidArgument: more
  // than there is.
  [[nodiscard]] absl::Status SetTarget(uint64_t bytes);
  BalloonStats Stats() const;

  std::string name() const override { return "balloon"; }
  uint32_t device_id() const override;
  uint64_t features() const override;
  uint16_t queues() const override { return 3; }
  std::span<const std::byte> config() const override { return {}; }
  void ReadConfig(uint64_t offset, std::span<std::byte> data) const override;
  void WriteConfig(uint64_t offset, std::span<const std::byte> data) override;
  uint32_t config_generation() const override { return generation_.load(kAcquire); }
  Served Serve(Request& request) override;

 private:
  bool TakeFrames(Request& request);
  bool CountFrames(Request& request);
  bool TakeBuffers(Request& request);
  void NoteChange();
  void Give(HvaRange pages, Counter& pages_given, Request& request);

  const GuestMemory& memory_;
  const Discard discard_;
  // Release and acquire: a driver that reads the new generation reads the new target.
  std::atomic<uint32_t> target_pages_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> actual_pages_{0};  // relaxed: what the driver says, for the statistics
  std::atomic<int64_t> changed_us_{0};     // relaxed: for the statistics
  Counter inflated_;
  Counter deflated_;
  Counter reported_;
  Counter kept_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_BALLOON_H_
