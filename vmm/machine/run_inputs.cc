#include "vmm/machine/run_inputs.h"

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/churn/script.h"

namespace underfoot {
namespace {

absl::StatusOr<std::vector<std::byte>> ReadPart(std::string_view option, const std::string& path) {
  if (path.empty()) return std::vector<std::byte>();
  absl::StatusOr<std::vector<std::byte>> bytes = ReadImageFile(path);
  if (bytes.ok()) return bytes;
  return absl::Status(bytes.status().code(),
                      absl::StrFormat("%s: %s", option, std::string(bytes.status().message())));
}

}  // namespace

absl::Status CheckOptions(const RunOptions& options) {
  if (const std::string why_not = options.WhyNoLinux(); !why_not.empty()) {
    return absl::InvalidArgumentError("--kernel: " + why_not);
  }
  if (const std::string why_not = options.WhyNoHotplug(); !why_not.empty()) {
    return absl::InvalidArgumentError("--hotplug-memory: " + why_not);
  }
  if (const std::string why_not = options.WhyNoDisk(); !why_not.empty()) {
    return absl::InvalidArgumentError("--disk: " + why_not);
  }
  if (const std::string why_not = options.WhyNoDirtyLog();
      options.dirty_log_period.has_value() && !why_not.empty()) {
    return absl::InvalidArgumentError("the dirty log: " + why_not);
  }
  if (absl::Status checked = CheckRecordIsNoInput(options); !checked.ok()) return checked;
  const ChurnLimits limits = options.ChurnLimitsOfHost();
  for (const auto& [kind, rate] : options.churn.rates) {
    const std::string why_not = limits.UnavailableReason(kind);
    if (rate > 0 && !why_not.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("churn kind %s %s", ChurnKindName(kind), why_not));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<virtio::RawDisk>> OpenDisk(const DiskFile& file) {
  absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk =
      virtio::RawDisk::Open(file.path, file.read_only);
  if (disk.ok()) return disk;
  return absl::Status(disk.status().code(),
                      absl::StrCat("--disk: ", std::string(disk.status().message())));
}

absl::StatusOr<Kvm> OpenKvm(const RunOptions& options) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return kvm;
  const std::string why_not = options.RunsLinux() ? WhyNoLinuxOn(KvmVendor()) : "";
  if (!why_not.empty()) return absl::FailedPreconditionError("--kernel: " + why_not);
  return kvm;
}

absl::StatusOr<LinuxStart> LoadLinuxFiles(const RunOptions& options, GuestWriter write) {
  const absl::StatusOr<std::vector<std::byte>> kernel = ReadPart("--kernel", options.guest);
  if (!kernel.ok()) return kernel.status();
  const absl::StatusOr<std::vector<std::byte>> initrd =
      ReadPart("--initrd", options.linux_guest->initrd);
  if (!initrd.ok()) return initrd.status();
  const std::string& append = options.linux_guest->append;
  absl::StatusOr<LinuxStart> start = LoadLinux(
      {.kernel = *kernel,
       .initrd = *initrd,
       .command_line = absl::StrCat(pc::kLinuxDefaults, append.empty() ? "" : " ", append),
       .memory_bytes = options.memory_bytes,
       .vcpus = options.vcpus},
      write);
  if (start.ok()) return start;
  return absl::Status(start.status().code(), absl::StrCat("--kernel ", options.guest, ": ",
                                                          std::string(start.status().message())));
}

absl::Status CheckRunInputs(const RunOptions& options) {
  if (absl::Status checked = CheckOptions(options); !checked.ok()) return checked;
  if (absl::Status opened = OpenKvm(options).status(); !opened.ok()) return opened;
  // Without leave nothing of the host is changed before Create makes the other checks.
  if (!options.allow_host_changes) return absl::OkStatus();
  // All open at a time, so that a disk that is given twice is refused.
  std::vector<std::unique_ptr<virtio::RawDisk>> disks;
  for (const DiskFile& file : options.disks) {
    std::error_code error;
    // When a block device is closed that was open for writing, udev looks at it and locks it meanwhile.
    if (std::filesystem::is_block_file(file.path, error)) continue;
    absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk = OpenDisk(file);
    if (!disk.ok()) return std::move(disk).status();
    disks.push_back(*std::move(disk));
  }
  // To open a link that leads to no file would make the file.
  std::error_code error;
  if (!options.record_path.empty() && (std::filesystem::exists(options.record_path, error) ||
                                       !std::filesystem::is_symlink(options.record_path, error))) {
    const absl::Status opened =
        ScriptWriter::Open(options.record_path, ScriptMachine::Of(options)).status();
    if (!opened.ok()) return opened;
  }
  const auto write_nothing = [](Gpa, std::span<const std::byte>) { return absl::OkStatus(); };
  if (options.RunsLinux()) return LoadLinuxFiles(options, write_nothing).status();
  if (options.HasBuiltInGuest()) return absl::OkStatus();
  return LoadElfFile(options.guest, kImageRange, write_nothing).status();
}

}  // namespace underfoot
