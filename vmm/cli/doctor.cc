#include "vmm/cli/doctor.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "mmu/base/types.h"
#include "vmm/base/cpus.h"
#include "vmm/base/errno_status.h"
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

// What was found is an error of a system call. The remedy for a lack of descriptors is set; another
// error leaves it empty.
void SetFound(std::string_view what, int error, DoctorCheck* check) {
  const std::pair<std::string, std::string> found_and_remedy =
      absl::StrSplit(ErrnoText(error), absl::MaxSplits("; ", 1));
  check->found = std::string(what) + found_and_remedy.first;
  check->remedy = found_and_remedy.second;
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
    SetFound(absl::StrCat(paths.dev_kvm, ": "), error, &check);
    if (!check.remedy.empty()) return check;
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
    SetFound("userfaultfd: ", error, &check);
    check.cost = "guest faults cannot be handled, so no guest can run";
    if (!check.remedy.empty()) return check;
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
bool ShowsPfns(const UniqueFd& pagemap) {
  constexpr uint64_t kPfnMask = (uint64_t{1} << 55) - 1;
  uint64_t entry = 0;  // on this stack, so the page is present
  const uint64_t page = HvaOf(&entry).value >> kPageShift;
  const auto offset = static_cast<off_t>(page * sizeof(entry));
  return pread(pagemap.get(), &entry, sizeof(entry), offset) == ssize_t{sizeof(entry)} &&
         (entry & kPfnMask) != 0;
}

DoctorCheck CheckPagemap(const DoctorPaths& paths) {
  const std::string path = paths.proc + "/self/pagemap";
  const UniqueFd pagemap(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) {
    DoctorCheck check{.name = "pagemap",
                      .result = CheckResult::kMissing,
                      .cost = "the host pages of guest memory are not known, so no guest can run"};
    SetFound(path + ": ", errno, &check);
    if (check.remedy.empty()) {
      check.remedy = absl::StrFormat(
          "mount -t proc proc %s, on a kernel with CONFIG_PROC_PAGE_MONITOR", paths.proc);
    }
    return check;
  }
  if (ShowsPfns(pagemap)) return Ok("pagemap", "shows page frame numbers");
  return {
      .name = "pagemap",
      .result = CheckResult::kLess,
      .found = "hides page frame numbers",
      .cost = "hva page numbers stand in for pfns, and the audit cannot see a page that moved",
      .remedy = HasCapability(CAP_SYS_ADMIN)
                    ? "run outside of this user namespace, whose root has no CAP_SYS_ADMIN on the "
                      "host"
                    : "run with CAP_SYS_ADMIN, as root of the host has it"};
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
  DoctorCheck check{.name = "memfd", .result = CheckResult::kLess, .cost = "no --backing memfd"};
  SetFound("memfd_create: ", errno, &check);
  if (check.remedy.empty()) {
    check.remedy = "use a kernel with CONFIG_MEMFD_CREATE and a seccomp profile that allows it";
  }
  return check;
}

// How a hierarchy of cgroups names what it says about memory.
struct MemoryCgroups {
  std::string root;
  std::string group;  // of this process, below the root
  std::string_view limit;
  std::string_view usage;
  std::string_view cache_prefix;  // of the keys in memory.stat
};

std::vector<MemoryCgroups> MemoryCgroupsOf(const DoctorPaths& paths) {
  std::vector<MemoryCgroups> found;
  std::ifstream file(paths.proc + "/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // HIERARCHY:CONTROLLERS:PATH
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (fields[0] == "0" && fields[1].empty()) {
      for (const char* mount : {"", "/unified"}) {
        found.push_back({paths.cgroup + mount, fields[2], "memory.max", "memory.current", ""});
      }
    } else if (fields[1] == "memory") {
      found.push_back({paths.cgroup + "/memory", fields[2], "memory.limit_in_bytes",
                       "memory.usage_in_bytes", "total_"});
    }
  }
  return found;
}

// The part of the usage that the kernel gives up first: pages of files.
uint64_t CacheIn(const std::string& folder, std::string_view prefix) {
  std::ifstream file(folder + "/memory.stat");
  uint64_t bytes = 0;
  uint64_t value = 0;
  for (std::string key; file >> key >> value;) {
    if (key == std::string(prefix) + "inactive_file" ||
        key == std::string(prefix) + "active_file") {
      bytes += value;
    }
  }
  return bytes;
}

// What the memory cgroups leave to this process: the least of its own group and those above it.
// nullopt: they limit nothing.
std::optional<uint64_t> LeftByCgroups(const DoctorPaths& paths) {
  std::optional<uint64_t> least;
  for (const MemoryCgroups& groups : MemoryCgroupsOf(paths)) {
    // A group that a namespace hides does not exist here; its root is then that of the namespace.
    for (std::string group = groups.group;; group.resize(group.rfind('/'))) {
      if (group == "/") group.clear();
      const std::string folder = groups.root + group;
      const std::optional<uint64_t> limit =
          ReadNumber(absl::StrFormat("%s/%s", folder, groups.limit));
      const std::optional<uint64_t> usage =
          ReadNumber(absl::StrFormat("%s/%s", folder, groups.usage));
      if (limit.has_value() && usage.has_value()) {
        const uint64_t used = *usage - std::min(*usage, CacheIn(folder, groups.cache_prefix));
        const uint64_t left = *limit - std::min(*limit, used);
        least = std::min(left, least.value_or(left));
      }
      if (group.empty() || group.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

// Of the whole host.
std::optional<uint64_t> AvailableOnHost(const DoctorPaths& paths) {
  std::ifstream file(paths.proc + "/meminfo");
  for (std::string name, unit; file >> name;) {
    uint64_t kib = 0;
    file >> kib;
    if (name == "MemAvailable:") return kib << 10;
    std::getline(file, unit);
  }
  return std::nullopt;
}

DoctorCheck CheckMemory(const DoctorPaths& paths) {
  const std::optional<uint64_t> available = AvailableBytes(paths);
  const uint64_t wanted = RunOptions().memory_bytes;
  const uint64_t mib = available.value_or(0) >> 20;
  const uint64_t host_mib = AvailableOnHost(paths).value_or(0) >> 20;
  const std::string found =
      absl::StrFormat("%u MiB available", mib) +
      (host_mib == mib ? ""
                       : absl::StrFormat(" in its memory cgroup, of %u MiB on the host", host_mib));
  if (available.value_or(0) >= 2 * wanted) return Ok("memory", found);
  return {.name = "memory",
          .result = CheckResult::kLess,
          .found = available.has_value() ? found : paths.proc + "/meminfo cannot be read",
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
  const size_t cores = AllowedCpus().size();
  const std::string found =
      absl::StrFormat("%u for this process, %d online", cores, sysconf(_SC_NPROCESSORS_ONLN));
  if (cores >= 2) return Ok("cores", found);
  return {.name = "cores",
          .result = CheckResult::kLess,
          .found = found,
          .cost = "vCPUs and churn take turns, so few races are met",
          .remedy = "give the machine, or this process (taskset), two or more CPUs"};
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
  const std::optional<uint64_t> host = AvailableOnHost(paths);
  if (!host.has_value()) return std::nullopt;
  return std::min(*host, LeftByCgroups(paths).value_or(*host));
}

DoctorReport CheckNeeds(const DoctorPaths& paths) {
  return {.checks = {CheckKvm(paths), CheckUserfaultfd(paths), CheckPagemap(paths)}};
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
