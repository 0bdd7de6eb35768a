// What a run takes from this host by the names in its options: KVM, disks, a kernel and its initrd.
//
// Every entrance of a run opens and checks them by these functions, so that each error is the same: it
// names the option, the value and the remedy.
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

// FailedPrecondition if it cannot run this kind of guest.
absl::StatusOr<Kvm> OpenKvm(const RunOptions& options);
absl::StatusOr<std::unique_ptr<virtio::RawDisk>> OpenDisk(const DiskFile& file);
// Writes the kernel and its initrd by `write`.
absl::StatusOr<LinuxStart> LoadLinuxFiles(const RunOptions& options, GuestWriter write);

// All of the above and the record, opened and let go again. For a run that changes the host: what would
// refuse it later refuses it before the first change.
[[nodiscard]] absl::Status CheckRunInputs(const RunOptions& options);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_RUN_INPUTS_H_
