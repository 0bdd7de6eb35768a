// What a run takes from this host by the names in its options: KVM, disks, a kernel and its initrd.
//
// Machine::Create and the precheck below open them by these functions, so that both say the same of the same
// fault. An error about a file names its option.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MACHINE_RUN_INPUTS_H_
#define UNDERFOOT_VMM_MACHINE_RUN_INPUTS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/boot/linux_boot.h"
#include "vmm/boot/loader.h"
#include "vmm/config/run_options.h"
#include "vmm/devices/virtio/disk.h"
#include "vmm/kvm/kvm.h"

namespace underfoot {

// Whether the options agree with each other.
[[nodiscard]] absl::Status CheckOptions(const RunOptions& options);

// FailedPrecondition if the KVM of this host cannot run this kind of guest.
absl::StatusOr<Kvm> OpenKvm(const RunOptions& options);
absl::StatusOr<std::unique_ptr<virtio::RawDisk>> OpenDisk(const DiskFile& file);
// Writes the kernel and its initrd by `write`.
absl::StatusOr<LinuxStart> LoadLinuxFiles(const RunOptions& options, GuestWriter write);

// A precheck, made before the host is changed for a run: opens what the options name and lets it go again,
// but for block devices and for a record behind a link that leads to no file. Without leave to change the host
// only the options and KVM are checked. Machine::Create makes every check again.
[[nodiscard]] absl::Status CheckRunInputs(const RunOptions& options);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_RUN_INPUTS_H_
