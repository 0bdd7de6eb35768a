// Puts a Linux kernel into guest memory, and starts the first vCPU in it. The other vCPUs are
// started by the kernel, by INIT and SIPI.
//
//   bzImage   by the 64-bit boot protocol: long mode, identity page tables, boot_params in rsi
//   vmlinux   by PVH: 32-bit protected mode without paging, the start information in ebx
//
// Everything is checked before the first byte is written.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_LINUX_BOOT_H_
#define UNDERFOOT_VMM_BOOT_LINUX_BOOT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/pvh.h"
#include "vmm/kvm/vcpu.h"

namespace underfoot {

struct LinuxBoot {
  std::span<const std::byte> kernel;  // a file: a bzImage or a vmlinux
  std::span<const std::byte> initrd;  // empty: none
  std::string command_line;
  uint64_t memory_bytes = 0;  // RAM is gpa [0, memory_bytes)
  uint32_t vcpus = 1;
};

enum class LinuxEntry : uint8_t { k64Bit, kPvh };

// Whether the kernel's own terminal (/dev/console) is that of the virtio console: the last `console=` of
// its command line counts.
bool LastConsoleIsHvc(std::string_view command_line);

struct LinuxStart {
  LinuxEntry entry = LinuxEntry::k64Bit;
  Gpa code;         // the first instruction
  Gpa information;  // boot_params, or the PVH start information
};

// RAM below 640K, where the kernel's other CPUs start, and from 1M on; reserved between them.
std::vector<MemoryRange> MemoryMapOf(uint64_t memory_bytes);

// InvalidArgument names what is wrong with the kernel, the initrd, the command line or the memory,
// and the remedy; then nothing has been written.
absl::StatusOr<LinuxStart> LoadLinux(const LinuxBoot& boot, GuestWriter write);

// For vCPU 0.
[[nodiscard]] absl::Status SetLinuxStartRegisters(Vcpu& vcpu, const LinuxStart& start);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_LINUX_BOOT_H_
