// The virtio devices and the event pages as they are reported: each device and each of its queues, each
// page.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_DEVICE_INFO_H_
#define UNDERFOOT_VMM_STATS_DEVICE_INFO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

// Totals since the start, except `active` and the indices, which are those of the present ring.
struct DeviceQueueInfo {
  std::string name;
  bool active = false;          // the driver has given it a ring
  uint16_t next_available = 0;  // of the next chain that the device takes
  uint16_t next_used = 0;       // of the next element that the device publishes
  uint64_t requests = 0;
  uint64_t errors = 0;  // requests that were answered with an error
  uint64_t to_guest_bytes = 0;
  uint64_t from_guest_bytes = 0;
  uint64_t bounced = 0;       // transfers through a buffer
  uint64_t direct = 0;        // transfers by one system call on guest memory
  uint64_t direct_again = 0;  // of those, made again through a buffer: not counted in `direct`
  uint64_t file_errors = 0;   // requests for which the file behind the device has failed
  uint64_t kicks = 0;
  uint64_t interrupts = 0;
  uint64_t refreshes = 0;             // of the pfn caches of the ring
  uint64_t refreshes_in_request = 0;  // of them, between the take and the end of a request
  uint64_t away = 0;                  // steps put off because the ring's memory was away
  uint64_t shortages = 0;             // steps put off because the process had no memory
};

struct DeviceInfo {
  std::string name;
  uint32_t id = 0;      // VIRTIO_ID_*
  Gpa gpa;              // of its registers
  uint32_t status = 0;  // VIRTIO_CONFIG_S_*
  uint64_t resets = 0;
  uint64_t needed_resets = 0;  // how often the driver has broken the rules
  std::string first_error;     // of the file behind it; empty: none
  std::vector<DeviceQueueInfo> queues;
};

// A page in which the VMM sends events and tells the time. Totals since the start.
struct EventPageInfo {
  std::string name;  // "vm", "vcpu-0"
  Gpa gpa = {};
  bool open = false;         // the guest has not closed it, or the VMM has not finished with it
  uint64_t sent_fast = 0;    // events that their sender has delivered
  uint64_t handed_over = 0;  // events that their sender could not deliver without blocking
  uint64_t sent_slow = 0;    // those of them that the thread which may block has delivered
  uint64_t time_updates = 0;
  uint64_t refreshes = 0;  // of the page's pfn cache
};

struct AllDevices {
  std::vector<DeviceInfo> virtio;
  std::vector<EventPageInfo> event_pages;  // those that the guest has given
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_DEVICE_INFO_H_
