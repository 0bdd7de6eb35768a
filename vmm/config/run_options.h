// The options of `underfoot run`, parsed and checked: RunMachine may rely on every range given
// here.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CONFIG_RUN_OPTIONS_H_
#define UNDERFOOT_VMM_CONFIG_RUN_OPTIONS_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "guest/abi.h"
#include "vmm/base/backing.h"
#include "vmm/config/churn_kind.h"
#include "vmm/config/churn_limits.h"
#include "vmm/config/churn_spec.h"

namespace underfoot {

inline constexpr uint64_t kMinMemoryBytes = uint64_t{32} << 20;
// The guest's page tables have room for one directory for each GiB, besides their two upper levels.
inline constexpr uint64_t kMaxMemoryBytes = ((abi::kPageTablesEnd - abi::kPageTablesGpa) / 4096 - 2)
                                            << 30;
inline constexpr uint32_t kMaxVcpus = abi::kMaxVcpus;  // the limit of the guest
// The most memory of a guest that records which pages it touches and writes.
inline constexpr uint64_t kMaxRecordedBytes = abi::kSystemAreaBytes + abi::kMaxVisits * 4096;

// A Linux guest has one range of RAM from gpa 0 on, below the interrupt controllers of a PC.
inline constexpr uint64_t kMinLinuxBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMaxLinuxBytes = uint64_t{3} << 30;
// Linux adds memory to itself in blocks of this size, at multiples of it.
inline constexpr uint64_t kLinuxMemoryBlock = uint64_t{128} << 20;

// What the guest `mixed` has without --hotplug-memory.
inline constexpr uint64_t kUsualHotplugBytes = uint64_t{16} << 20;

// The workloads of the built-in guest.
inline constexpr std::array<std::string_view, 6> kWorkloadNames = {"hello",  "stamp", "smp",
                                                                   "shared", "mixed", "devices"};

// Whether the kernel notifier is used.
enum class KernelEvents : uint8_t {
  kAuto,  // if this host allows it
  kOn,    // required: without it the run fails
  kOff,
};

// A file or block device of the host as a disk of the guest.
struct DiskFile {
  std::string path;
  bool read_only = false;

  bool operator==(const DiskFile&) const = default;
};
inline constexpr size_t kMaxDisks = 8;

// A Linux guest, whose kernel is RunOptions::guest.
struct LinuxOptions {
  std::string initrd = {};  // a file; empty: none
  std::string append = {};  // more of the kernel's command line
  bool console = false;     // the guest's serial port is this program's terminal
};

struct RunOptions {
  // One of kWorkloadNames, or the path of an ELF file; with `linux_guest`, the path of a kernel.
  std::string guest = "mixed";
  std::optional<LinuxOptions> linux_guest = {};
  uint64_t memory_bytes = uint64_t{256} << 20;  // whole pages, kMinMemoryBytes..kMaxMemoryBytes
  // Memory that can be plugged while the guest runs, behind the rest; 0: none; absent: HotplugBytes
  // decides. See WhyNoHotplug.
  std::optional<uint64_t> hotplug_bytes = {};
  uint32_t vcpus = 2;  // 1..kMaxVcpus
  Backing backing = Backing::kAnon;
  HugePages huge_pages = HugePages::kOff;  // memory_bytes is a multiple of SlotGranule
  bool choose_huge_pages = false;  // `huge_pages` is kOff, and a run may choose: see PagesOn
  // The most pages that a fault brings in, 1..512; 1: only the faulting page.
  uint64_t fault_around = 64;
  // Threads that serve faults, 1..kMostEventReaders; absent: FaultHandlersForThisHost.
  std::optional<unsigned> fault_handlers = {};
  bool pin_vcpus = false;  // vCPU i stays on the i-th CPU that this process may use, round robin
  bool removal_events = true;  // userfaultfd reports the removals of other threads and processes
  ChurnSpec churn;             // resolved for `backing`: every kind in it is possible
  // The most bytes of table pages that may wait to be freed; absent: RetiredCapFor all guest memory.
  std::optional<uint64_t> retired_cap_bytes = {};
  KernelEvents kernel_events = KernelEvents::kAuto;
  // The kernel resolves write-protect faults itself and only records them; needs Linux 6.7.
  bool async_write_protect = false;
  // The time between two scans for touched pages; 0: scans only on request (Machine::working_set);
  // absent: no scans. With private memory it needs async_write_protect.
  std::optional<std::chrono::milliseconds> working_set_period = {};
  // The time between two collections of the dirty log; 0: collections only on request
  // (Machine::dirty_log); absent: writes are not logged. See WhyNoDirtyLog.
  std::optional<std::chrono::milliseconds> dirty_log_period = {};
  bool keep_visits = false;  // the guest records which pages it touches, to check the working set
  uint64_t seed = 1;
  std::chrono::milliseconds duration = std::chrono::seconds(10);  // 0: until quit
  // The guest's disks; none: the guest `mixed` has a temporary file. At most one, but for a Linux guest.
  std::vector<DiskFile> disks = {};
  // How long the end of a run waits for a guest that makes no progress; absent: depends on the
  // memory.
  std::optional<std::chrono::milliseconds> end_timeout = {};
  std::string control_path;  // the path of the socket; by default derived from `name`
  std::string name;          // "vm-<pid>" unless it was given; letters, digits, '-', '_', '.'
  bool json = false;         // print the summary as JSON on stdout, and no status line
  // Permission to change the host as a whole for the run; the changes are undone at the end.
  bool allow_host_changes = false;
  std::string record_path = {};   // a file to record the churn to; empty: none
  std::string replay_path = {};   // a record to repeat instead of the schedule; empty: none
  std::string command_line = {};  // as given, so that a result shows how it was produced
  // The kinds of churn that the host does not offer, with the reasons.
  std::map<ChurnKind, std::string> unavailable_churn = {};

  // The guest completes its current round first, which takes longer the more memory it has.
  std::chrono::milliseconds EndTimeout() const {
    const std::chrono::seconds by_memory(60 + 30 * ((memory_bytes + HotplugBytes()) >> 30));
    return end_timeout.value_or(std::chrono::milliseconds(by_memory));
  }

  bool RunsLinux() const { return linux_guest.has_value(); }
  bool HasBuiltInGuest() const {
    return !RunsLinux() &&
           std::find(kWorkloadNames.begin(), kWorkloadNames.end(), guest) != kWorkloadNames.end();
  }
  // Whether the guest is the built-in one that drives the virtio devices itself.
  bool DrivesDevices() const { return !RunsLinux() && (guest == "mixed" || guest == "devices"); }
  // How often the guest works on its disk for each time that it works on its pages.
  uint64_t DeviceTurns() const { return guest == "devices" ? 64 : 1; }

  // Why the guest has no use for its disks; empty: it has.
  std::string WhyNoDisk() const {
    if (disks.empty()) return "";
    if (HasBuiltInGuest() && !DrivesDevices()) {
      return "the guest " + guest + " uses no disk; take --guest mixed, or a guest of your own";
    }
    if (!RunsLinux() && disks.size() > 1) {
      return "this guest uses one disk; several are for a Linux guest (--kernel)";
    }
    if (disks.size() > kMaxDisks) {
      return std::to_string(disks.size()) + " disks; at most " + std::to_string(kMaxDisks) +
             " are possible";
    }
    return "";
  }
  // Why a Linux guest cannot run with these options; empty: it can, or there is none.
  std::string WhyNoLinux() const {
    if (!RunsLinux()) return "";
    if (memory_bytes > kMaxLinuxBytes || memory_bytes < kMinLinuxBytes) {
      return "a Linux guest has from " + std::to_string(kMinLinuxBytes >> 20) + " MiB to " +
             std::to_string(kMaxLinuxBytes >> 20) +
             " MiB of --memory: a PC has its interrupt controllers above that";
    }
    if (dirty_log_period.has_value()) {
      return "--dirty-log is checked against what the guest records of its writes, and Linux "
             "records nothing; leave one of the two out";
    }
    if (keep_visits) return "Linux records no visits of its pages";
    return "";
  }
  // Why no memory can be plugged with these options; empty: it can, or none is asked for.
  std::string WhyNoHotplug() const {
    return hotplug_bytes.value_or(0) == 0 ? "" : WhyNoHotplug(*hotplug_bytes);
  }
  // Without the option, the guest that drives the devices has some if nothing is against it.
  uint64_t HotplugBytes() const {
    const bool has_some = DrivesDevices() && WhyNoHotplug(kUsualHotplugBytes).empty();
    return hotplug_bytes.value_or(has_some ? kUsualHotplugBytes : 0);
  }
  // How much of it the guest is asked to have plugged at the start: a half, in whole blocks. Linux is
  // asked for it by a person.
  uint64_t FirstPluggedBytes() const {
    return DrivesDevices() ? HotplugBytes() / 2 & ~(kHotplugBlockBytes - 1) : 0;
  }
  std::string WhyNoHotplug(uint64_t bytes) const {
    if (HasBuiltInGuest() && !DrivesDevices()) {
      return "the guest " + guest +
             " plugs no memory; take --guest mixed, or a guest of your own, or a Linux guest";
    }
    const uint64_t block = RunsLinux() ? kLinuxMemoryBlock : kHotplugBlockBytes;
    if (((memory_bytes | bytes) & (block - 1)) != 0) {
      return (RunsLinux() ? "Linux plugs memory in blocks of "
                          : "memory is plugged in blocks of ") +
             std::to_string(block >> 20) + " MiB; give it and --memory as multiples of that";
    }
    if (RunsLinux() && bytes > kMaxLinuxBytes - memory_bytes) {
      return "together with --memory it is more than the " + std::to_string(kMaxLinuxBytes >> 20) +
             " MiB that a Linux guest can have; take less of one of them";
    }
    if (!RunsLinux() && bytes > abi::kMaxHotplugBytes) {
      return "it is more than the " + std::to_string(abi::kMaxHotplugBytes >> 20) +
             " MiB that the guest can plug";
    }
    if (!RunsLinux() && bytes > kMaxMemoryBytes - memory_bytes) {
      return "together with --memory it is more than the " + std::to_string(kMaxMemoryBytes >> 20) +
             " MiB that the guest's page tables can map; take less of one of them";
    }
    if (RecordsVisits()) {
      return "the guest records what it touches and writes of its --memory only; leave out "
             "--dirty-log";
    }
    if (IsHugetlb(huge_pages)) {
      return "hugetlb pages are reserved for all of it from the start; take --huge-pages thp or "
             "off";
    }
    if (!record_path.empty() || !replay_path.empty()) {
      return "a record of the churn does not name it; leave out --record and --replay";
    }
    return "";
  }
  // Why the dirty log cannot be on with these options; empty: it can.
  std::string WhyNoDirtyLog() const {
    if (dirty_log_period.has_value() && dirty_log_period->count() < 0) {
      return "the time between two collections cannot be negative";
    }
    if (guest == "hello" || guest == "shared") {
      return "guest " + guest +
             " records no writes by which the log could be checked; take stamp, smp or mixed";
    }
    // A lesser --memory, the remedy below, would be refused too (RamSizeError).
    if (huge_pages == HugePages::k1G) {
      return "with pages of 1 GiB a machine has more memory than the guest has room to record; "
             "take "
             "--huge-pages 2M and --memory of at most " +
             std::to_string(kMaxRecordedBytes >> 20) + "M";
    }
    if (memory_bytes > kMaxRecordedBytes) {
      return "the guest has room to record its writes to at most " +
             std::to_string(kMaxRecordedBytes >> 20) + " MiB of memory; take less --memory";
    }
    return "";
  }
  // Whether the guest records which pages it touches and writes.
  bool RecordsVisits() const { return keep_visits || dirty_log_period.has_value(); }

  // Excludes the kinds of churn that conflict with these options.
  void Limit(ChurnLimits& limits) const {
    if (RunsLinux()) limits.SpareLinux();
    if (SamplesWrites()) limits.SpareWriteProtection();
    if (!removal_events) limits.SpareRemovalEvents();
  }
  // With what these options exclude.
  ChurnLimits ChurnLimitsOfHost() const {
    ChurnLimits limits{backing, huge_pages, unavailable_churn};
    Limit(limits);
    return limits;
  }
  bool SamplesWrites() const { return working_set_period.has_value() && backing == Backing::kAnon; }
  // Fault-around and read-ahead must be off then: a page that is present counts as touched.
  bool page_in_is_touch() const { return working_set_period.has_value(); }
  // What memory is made of. `brings_in_thp`, which is asked only if it matters: whether a fault can
  // bring in a whole transparent huge page of private memory on this host. A Linux guest touches most
  // of its memory and starts faster with them; the built-in guests check single pages.
  HugePages PagesOn(absl::FunctionRef<bool()> brings_in_thp) const {
    const bool wanted = choose_huge_pages && RunsLinux() && backing == Backing::kAnon &&
                        RamSizeError(memory_bytes, HugePages::kThp).empty() && FaultAround() > 1;
    return wanted && brings_in_thp() ? HugePages::kThp : huge_pages;
  }
  // The most pages that a fault brings in.
  uint64_t FaultAround() const { return page_in_is_touch() ? 1 : fault_around; }
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONFIG_RUN_OPTIONS_H_
