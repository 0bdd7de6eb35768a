#include "vmm/cli/doctor.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"
#include "vmm/config/run_options.h"
#include "vmm/host/capability.h"
#include "vmm/host/tracefs.h"
#include "vmm/kvm/kvm.h"

namespace underfoot {
namespace {

DoctorCheck Ok(std::string name, std::string found) {
  return {.name = std::move(name), .result = CheckResult::kOk, .found = std::move(found)};
}

std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

DoctorCheck CheckKvm(const DoctorPaths& paths) {
  DoctorCheck check{.name = "kvm", .result = CheckResult::kMissing, .cost = "no guest can run"};
  const UniqueFd kvm(open(paths.dev_kvm.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) {
    const int error = errno;
    check.found = absl::StrFormat("%s: %s", paths.dev_kvm, std::strerror(error));
    check.remedy =
        error == EACCES || error == EPERM
            ? "join the group of the device (often 'kvm'), or run as root"
            : absl::StrCat(
                  "load kvm_intel or kvm_amd, turn virtualization on in the firmware, and in a VM "
                  "or "
                  "container pass /dev/kvm through",
                  error == ENOENT ? "; without it, ./dev demo of the source tree runs a guest on a "
                                    "stock KVM under QEMU's software CPU"
                                  : "");
    return check;
  }
  const int version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    check.found = absl::StrFormat("API version %d, not %d", version, KVM_API_VERSION);
    check.remedy = "use a kernel whose KVM has the stable API (2.6.22 or newer)";
    return check;
  }
  for (const auto& [capability, name] :
       {std::pair{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
        std::pair{KVM_CAP_SYNC_MMU, "KVM_CAP_SYNC_MMU"},
        std::pair{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"}}) {
    if (ioctl(kvm.get(), KVM_CHECK_EXTENSION, capability) > 0) continue;
    check.found = absl::StrFormat("no %s", name);
    check.remedy = "use a newer kernel (4.13 has all that is needed)";
    return check;
  }
  return Ok("kvm", absl::StrFormat("%s, API %d, module %s, up to %d vCPUs", paths.dev_kvm, version,
                                   KvmVendor(paths.sys_module),
                                   ioctl(kvm.get(), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS)));
}

DoctorCheck CheckLinuxGuests(const DoctorPaths& paths) {
  const std::string vendor = KvmVendor(paths.sys_module);
  if (const std::string why_not = WhyNoLinuxOn(vendor); !why_not.empty()) {
    return {.name = "linux-guests",
            .result = CheckResult::kLess,
            .found = why_not,
            .cost = "`run --kernel`",
            .remedy = "take the guests that come with the program (--guest), or such a host"};
  }
  return Ok("linux-guests", vendor);
}

// A guest's faults are kernel faults, so a descriptor that handles only user-mode faults is not
// enough.
UniqueFd OpenUserfaultfd(const DoctorPaths& paths, std::string* how) {
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  *how = "the syscall";
  if (fd.valid()) return fd;
  const int error = errno;
  const UniqueFd device(open(paths.dev_userfaultfd.c_str(), O_RDWR | O_CLOEXEC));
  if (device.valid()) {
    fd = UniqueFd(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    *how = paths.dev_userfaultfd;
  }
  if (!fd.valid()) errno = error;
  return fd;
}

struct UffdFeature {
  uint64_t bit;
  const char* name;
  const char* cost;
};

constexpr std::array<UffdFeature, 6> kUffdFeatures = {{
    {UFFD_FEATURE_PAGEFAULT_FLAG_WP, "WP", "no write-protect churn"},
    {UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM", "no --backing memfd"},
    {UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM", "no --backing memfd"},
    {UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE", "discards by other processes are not reported"},
    {UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP", "unmaps by other threads are not reported"},
    {UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP", "remaps by other threads are not reported"},
}};

void CheckUffdFeatures(uint64_t features, DoctorCheck* check) {
  std::string missing;
  for (const UffdFeature& feature : kUffdFeatures) {
    if ((features & feature.bit) != 0) continue;
    if (!missing.empty()) missing += ", ";
    missing += feature.name;
    if (!check->cost.empty()) check->cost += "; ";
    check->cost += feature.cost;
  }
  if (missing.empty()) return;
  check->result = CheckResult::kLess;
  check->found += ", without " + missing;
  check->remedy = "use a kernel from 5.13 on (5.19 for write protection of memfd)";
}

DoctorCheck CheckUserfaultfd(const DoctorPaths& paths) {
  std::string how;
  const UniqueFd fd = OpenUserfaultfd(paths, &how);
  DoctorCheck check{.name = "userfaultfd"};
  if (!fd.valid()) {
    const int error = errno;
    check.result = CheckResult::kMissing;
    check.found = absl::StrFormat("userfaultfd: %s", std::strerror(error));
    check.cost = "guest faults cannot be handled, so no guest can run";
    check.remedy =
        error == ENOSYS
            ? "use a kernel with CONFIG_USERFAULTFD"
            : "run as root, or give read and write access to /dev/userfaultfd, or sysctl "
              "vm.unprivileged_userfaultfd=1";
    return check;
  }
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    check.result = CheckResult::kMissing;
    check.found = absl::StrFormat("UFFDIO_API: %s", std::strerror(errno));
    check.cost = "guest faults cannot be handled, so no guest can run";
    check.remedy = "use a kernel from 4.11 on";
    return check;
  }
  check.found = absl::StrFormat("by %s, features 0x%x", how, api.features);
  CheckUffdFeatures(api.features, &check);
  return check;
}

// Checks what the kernel shows, and not whether a capability should allow it.
bool PagemapShowsPfns(const DoctorPaths& paths) {
  const UniqueFd pagemap(open((paths.proc + "/self/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return false;
  constexpr uint64_t kPfnMask = (uint64_t{1} << 55) - 1;
  uint64_t entry = 0;  // on this stack, so the page is present
  const uint64_t page = HvaOf(&entry).value >> kPageShift;
  const auto offset = static_cast<off_t>(page * sizeof(entry));
  return pread(pagemap.get(), &entry, sizeof(entry), offset) == ssize_t{sizeof(entry)} &&
         (entry & kPfnMask) != 0;
}

DoctorCheck CheckPagemap(const DoctorPaths& paths) {
  if (PagemapShowsPfns(paths)) return Ok("pagemap", "shows page frame numbers");
  return {.name = "pagemap",
          .result = CheckResult::kLess,
          .found = "hides page frame numbers",
          .cost = "hva page numbers stand in for pfns, and the audit cannot see a page that moved",
          .remedy = "run as root or with CAP_SYS_ADMIN"};
}

DoctorCheck CheckPrivileges(const DoctorPaths& paths) {
  const std::optional<uint64_t> knob = ReadNumber(paths.proc + "/sys/vm/unprivileged_userfaultfd");
  const std::string found = absl::StrFormat(
      "uid %u, CAP_SYS_PTRACE %s, CAP_SYS_ADMIN %s, vm.unprivileged_userfaultfd %s", geteuid(),
      HasCapability(CAP_SYS_PTRACE) ? "yes" : "no", HasCapability(CAP_SYS_ADMIN) ? "yes" : "no",
      knob.has_value() ? std::to_string(*knob) : "unknown");
  if (HasCapability(CAP_SYS_PTRACE)) return Ok("privileges", found);
  return {.name = "privileges",
          .result = CheckResult::kLess,
          .found = found,
          .cost = "no fork events from userfaultfd",
          .remedy = "run as root or with CAP_SYS_PTRACE"};
}

DoctorCheck CheckTracepoints(const DoctorPaths& paths) {
  DoctorCheck check{
      .name = "tracepoints",
      .result = CheckResult::kLess,
      .cost =
          "the kernel's own invalidations (swap, migration, KSM) are not reported; the audit finds "
          "and repairs the translations that they left wrong, and counts them as unobserved"};
  const absl::StatusOr<Tracefs> tracefs = Tracefs::Open(paths.mountinfo);
  const absl::StatusOr<TraceEvent> event =
      tracefs.ok() ? tracefs->ReadEvent("kvm/kvm_unmap_hva_range") : tracefs.status();
  if (!event.ok()) {
    const std::pair<std::string, std::string> found_and_remedy =
        absl::StrSplit(event.status().message(), absl::MaxSplits("; ", 1));
    std::tie(check.found, check.remedy) = found_and_remedy;
    return check;
  }
  // Does not open an event: the kernel needs 50 ms to close the first event of a tracepoint.
  std::string paranoid;
  std::ifstream(paths.proc + "/sys/kernel/perf_event_paranoid") >> paranoid;
  if (HasCapability(CAP_PERFMON) || HasCapability(CAP_SYS_ADMIN) || paranoid == "-1") {
    return Ok("tracepoints",
              absl::StrFormat("%s, kvm_unmap_hva_range has id %u", tracefs->name(), event->id));
  }
  check.found = absl::StrFormat("no CAP_PERFMON, and kernel.perf_event_paranoid is %s",
                                paranoid.empty() ? "unknown" : paranoid);
  check.remedy = "run as root or with CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1";
  return check;
}

DoctorCheck CheckMembarrier() {
  const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  if (commands > 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) {
    return Ok("membarrier", "private expedited");
  }
  return {.name = "membarrier",
          .result = CheckResult::kLess,
          .found = commands < 0 ? std::strerror(errno) : "no private expedited command",
          .cost = "RCU readers use a full barrier each",
          .remedy = "use a kernel from 4.14 on with CONFIG_MEMBARRIER"};
}

DoctorCheck CheckMemfd() {
  const UniqueFd fd(memfd_create("underfoot-doctor", MFD_CLOEXEC));
  if (fd.valid()) return Ok("memfd", "memfd_create works");
  return {.name = "memfd",
          .result = CheckResult::kLess,
          .found = absl::StrFormat("memfd_create: %s", std::strerror(errno)),
          .cost = "no --backing memfd",
          .remedy = "use a kernel with CONFIG_MEMFD_CREATE and a seccomp profile that allows it"};
}

DoctorCheck CheckMemory(const DoctorPaths& paths) {
  const std::optional<uint64_t> available = AvailableBytes(paths);
  const uint64_t wanted = RunOptions().memory_bytes;
  const uint64_t mib = available.value_or(0) >> 20;
  if (available.value_or(0) >= 2 * wanted) {
    return Ok("memory", absl::StrFormat("%u MiB available", mib));
  }
  return {.name = "memory",
          .result = CheckResult::kLess,
          .found = available.has_value() ? absl::StrFormat("%u MiB available", mib)
                                         : paths.proc + "/meminfo cannot be read",
          .cost = "the default guest may not fit",
          .remedy = "give the guest less with --memory 64M"};
}

DoctorCheck CheckHugePages(const DoctorPaths& paths) {
  const HugePageHost host(paths.huge_pages);
  if (host.OffersThp()) return Ok("huge-pages", host.Describe());
  return {.name = "huge-pages",
          .result = CheckResult::kLess,
          .found = host.Describe(),
          .cost = "no --huge-pages thp",
          .remedy = absl::StrFormat("echo madvise > %s/enabled, as root, on a kernel with "
                                    "CONFIG_TRANSPARENT_HUGEPAGE",
                                    paths.huge_pages.thp)};
}

DoctorCheck CheckCores() {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  const std::string found = absl::StrFormat("%d online", cores);
  if (cores >= 2) return Ok("cores", found);
  return {.name = "cores",
          .result = CheckResult::kLess,
          .found = found,
          .cost = "vCPUs and churn take turns, so few races are met",
          .remedy = "give the machine two or more CPUs"};
}

DoctorCheck CheckHostChanges(const DoctorPaths& paths) {
  const absl::StatusOr<std::vector<std::string>> left = HostJournal::Leftovers(paths.host_changes);
  if (!left.ok()) {
    return {.name = "host-changes",
            .result = CheckResult::kLess,
            .found = std::string(left.status().message()),
            .cost = "it is not known which changes of this host a killed run has left",
            .remedy = "underfoot doctor, as root"};
  }
  if (left->empty()) return Ok("host-changes", "no run has left any behind");
  return {.name = "host-changes",
          .result = CheckResult::kLess,
          .found = absl::StrFormat("a killed run has left: %s", absl::StrJoin(*left, ", ")),
          .cost = "this host is not as it was",
          .remedy = "underfoot doctor --restore, as root; the next run does it too"};
}

}  // namespace

std::optional<uint64_t> AvailableBytes(const DoctorPaths& paths) {
  std::ifstream file(paths.proc + "/meminfo");
  for (std::string name, unit; file >> name;) {
    uint64_t kib = 0;
    file >> kib;
    if (name == "MemAvailable:") return kib << 10;
    std::getline(file, unit);
  }
  return std::nullopt;
}

DoctorReport CheckNeeds(const DoctorPaths& paths) {
  return {.checks = {CheckKvm(paths), CheckUserfaultfd(paths)}};
}

DoctorReport CheckKernelRecords(const DoctorPaths& paths) {
  return {.checks = {CheckTracepoints(paths)}};
}

DoctorReport RunDoctor(const DoctorPaths& paths) {
  return {.checks = {CheckKvm(paths), CheckLinuxGuests(paths), CheckUserfaultfd(paths),
                     CheckPrivileges(paths), CheckPagemap(paths), CheckTracepoints(paths),
                     CheckMembarrier(), CheckMemfd(), CheckMemory(paths), CheckHugePages(paths),
                     CheckCores(), CheckHostChanges(paths)}};
}

}  // namespace underfoot
