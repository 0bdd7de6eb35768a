// The virtio memory balloon (virtio 1.2, section 5.5): the guest gives pages to the host and takes them
// back. Inflate, deflate (also when the guest is out of memory), free-page reporting and statistics.
//
//   SetTarget ──► num_pages, an interrupt ──► the driver inflates:  frame numbers on queue 0
//                                                       deflates:   frame numbers on queue 1
//                                                       reports free pages: buffers on the last queue
//   the driver writes `actual` when it has changed
//   the driver gives a buffer with statistics ──► the device reads it, and keeps it
//   AskForStatistics ──► the device returns the buffer ──► the driver fills it, and gives it again
//
// Queue 2 is that of the statistics if the driver has accepted them, and queue 3 that of the reports;
// otherwise queue 2 is that of the reports. Existing drivers number the queues that they use without
// gaps; the standard would leave a place for the queue of hints, a feature that is not offered.
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
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/change_time.h"
#include "vmm/devices/virtio/give_back.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/stats/stats.h"

namespace underfoot::virtio {

class Balloon final : public Backend {
 public:
  static constexpr uint16_t kInflate = 0;
  static constexpr uint16_t kDeflate = 1;
  static constexpr uint16_t kStatistics = 2;  // of a driver that has accepted them

  Balloon(const GuestMemory& memory, GiveBack::Discard discard)
      : memory_(memory), give_back_(std::move(discard), memory.huge_pages()) {
    changed_.Note();
  }

  // How much memory the driver shall give to the host; rounded down to pages. InvalidArgument: more
  // than there is.
  [[nodiscard]] absl::Status SetTarget(uint64_t bytes);
  // Has the driver report the statistics of the guest once more. Returns at once; nothing follows if
  // the driver has not accepted them.
  void AskForStatistics();
  BalloonStats Stats() const;
  // What the guest has reported last.
  GuestMemoryStats GuestStats() const ABSL_LOCKS_EXCLUDED(mutex_);

  std::string name() const override { return "balloon"; }
  uint32_t device_id() const override;
  uint64_t features() const override;
  uint16_t queues() const override { return 4; }
  std::span<const std::byte> config() const override { return {}; }
  void ReadConfig(uint64_t offset, std::span<std::byte> data) const override;
  void WriteConfig(uint64_t offset, std::span<const std::byte> data) override;
  uint32_t config_generation() const override { return generation_.load(kAcquire); }
  void DriverBegins(uint64_t features) override;
  Served Serve(Request& request) override;

 private:
  bool TakeFrames(Request& request);
  bool CountFrames(Request& request);
  bool TakeBuffers(Request& request);
  Served TakeStatistics(Request& request) ABSL_LOCKS_EXCLUDED(mutex_);
  void Give(HvaRange pages, Counter& pages_given, Request& request);

  const GuestMemory& memory_;
  const GiveBack give_back_;
  // Release and acquire: a driver that reads the new generation reads the new target.
  std::atomic<uint32_t> target_pages_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> actual_pages_{0};  // relaxed: what the driver says, for the statistics
  ChangeTime changed_;
  // Release and acquire are those of the order that the workers are given.
  std::atomic<bool> reports_statistics_{false};
  // The buffer shall be returned. A worker that misses it is woken after it was set.
  std::atomic<bool> asked_{false};

  // Guards: what the guest has reported last. Order: innermost. Held across: nothing that waits.
  mutable absl::Mutex mutex_;
  GuestMemoryStats guest_ ABSL_GUARDED_BY(mutex_);
  int64_t guest_reported_us_ ABSL_GUARDED_BY(mutex_) = 0;

  Counter inflated_;
  Counter deflated_;
  Counter reported_;
  Counter kept_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_BALLOON_H_
