// The state in which a guest starts: page tables and BootInfo in the system area, the registers of
// every vCPU. The protocol is guest/abi.h's.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_BOOT_H_
#define UNDERFOOT_VMM_BOOT_BOOT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "guest/abi.h"
#include "mmu/base/types.h"
#include "vmm/boot/loader.h"
#include "vmm/kvm/vcpu.h"

namespace underfoot {

struct BootConfig {
  uint64_t memory_bytes = 0;  // RAM is gpa [0, memory_bytes)
  uint64_t hotplug_bytes =
      0;  // behind it, memory that can be plugged; the guest's page tables map it
  uint64_t vcpus = 1;
  abi::Workload workload = abi::Workload::kMixed;
  uint64_t seed = 0;
  uint64_t max_rounds = 0;   // 0: until stop
  uint64_t max_pages = 0;    // 0: all
  uint64_t final_pages = 0;  // 0: all
  bool keep_visits = false;  // the guest notes which pages it touches (abi::Visit)
  uint64_t virtio_devices = 0;
  uint64_t device_turns = 1;  // of the disk's driver for each one of the stamps
  std::vector<abi::DataRange> ranges;
};

// InvalidArgument names the field, its value and what is allowed.
[[nodiscard]] absl::Status CheckBootConfig(const BootConfig& config);

// Page tables, zeroed reports and BootInfo. Checks the config first.
[[nodiscard]] absl::Status WriteBootData(const BootConfig& config, GuestWriter write);

// Where LoadElf may put the image.
inline constexpr GpaRange kImageRange{{abi::kImageGpa}, {abi::kImageEnd}};

[[nodiscard]] absl::Status SetStartRegisters(Vcpu& vcpu, Gpa entry);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_BOOT_H_
