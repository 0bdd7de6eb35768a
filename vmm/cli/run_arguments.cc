#include "vmm/cli/run_arguments.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "mmu/base/types.h"
#include "mmu/fault_around.h"
#include "vmm/base/errno_status.h"
#include "vmm/cli/units.h"
#include "vmm/evidence/event_reads.h"

namespace underfoot {
namespace {

absl::Status Bad(std::string_view option, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", option, why));
}

absl::Status Bad(std::string_view option, const absl::Status& status) {
  return Bad(option, std::string(status.message()));
}

absl::Status CheckGuest(const std::string& guest) {
  if (std::find(kWorkloadNames.begin(), kWorkloadNames.end(), guest) != kWorkloadNames.end()) {
    return absl::OkStatus();
  }
  std::string names;
  for (const std::string_view name : kWorkloadNames) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  struct stat info {};
  if (stat(guest.c_str(), &info) != 0 || access(guest.c_str(), R_OK) != 0) {
    return Bad("--guest", absl::StrFormat("'%s' is not a built-in guest (%s), and as a file: %s",
                                          guest, names, ErrnoText(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return Bad(
        "--guest",
        absl::StrFormat("'%s' is not a regular file; give an ELF file or one of %s", guest, names));
  }
  return absl::OkStatus();
}

absl::Status CheckFile(std::string_view option, const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || access(path.c_str(), R_OK) != 0) {
    return Bad(option, absl::StrFormat("'%s': %s", path, ErrnoText(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return Bad(option, absl::StrFormat("'%s' is not a regular file", path));
  }
  return absl::OkStatus();
}

// Must be called after the memory, the dirty log and the disks are known.
absl::Status CheckKernel(const RunArguments& arguments, RunOptions* options) {
  if (!options->RunsLinux()) {
    for (const auto& [option, given] : {std::pair{"--initrd", !arguments.initrd.empty()},
                                        std::pair{"--append", !arguments.append.empty()},
                                        std::pair{"--console", arguments.console}}) {
      if (given) return Bad(option, "is for a Linux guest; give its --kernel as well");
    }
    return CheckGuest(arguments.guest);
  }
  if (absl::Status checked = CheckFile("--kernel", arguments.kernel); !checked.ok()) return checked;
  if (!arguments.initrd.empty()) {
    if (absl::Status checked = CheckFile("--initrd", arguments.initrd); !checked.ok()) {
      return checked;
    }
  }
  if (arguments.console && arguments.json) {
    return Bad("--console", "the guest's output would mix with that of --json; leave one out");
  }
  const std::string why_not = options->WhyNoLinux();
  return why_not.empty() ? absl::OkStatus() : Bad("--kernel", why_not);
}

absl::Status CheckMemory(const std::string& text, RunOptions* options) {
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return Bad("--memory", bytes.status());
  if (*bytes < kMinMemoryBytes || *bytes > kMaxMemoryBytes) {
    return Bad("--memory",
               absl::StrFormat("'%s' is %s; it must be from %s to %s", text, FormatBytes(*bytes),
                               FormatBytes(kMinMemoryBytes), FormatBytes(kMaxMemoryBytes)));
  }
  if (*bytes % kPageSize != 0) {
    return Bad("--memory",
               absl::StrFormat("'%s' is not a whole number of %u-byte pages", text, kPageSize));
  }
  options->memory_bytes = *bytes;
  return absl::OkStatus();
}

// Must be called after the guest, the memory and the huge pages are known.
absl::Status CheckHotplug(const std::string& text, RunOptions* options) {
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return Bad("--hotplug-memory", bytes.status());
  options->hotplug_bytes = *bytes;
  const std::string why_not = options->WhyNoHotplug();
  return why_not.empty() ? absl::OkStatus()
                         : Bad("--hotplug-memory", absl::StrFormat("'%s': %s", text, why_not));
}

absl::Status CheckVcpus(const std::string& text, RunOptions* options) {
  const absl::StatusOr<uint64_t> vcpus = ParseNumber(text);
  if (!vcpus.ok() || *vcpus < 1 || *vcpus > kMaxVcpus) {
    return Bad("--vcpus", absl::StrFormat("'%s' must be a whole number from 1 to %u",
                                          text.substr(0, 80), kMaxVcpus));
  }
  options->vcpus = static_cast<uint32_t>(*vcpus);
  return absl::OkStatus();
}

absl::Status CheckBacking(const std::string& text, RunOptions* options) {
  for (const Backing backing : {Backing::kAnon, Backing::kMemfd}) {
    if (text != BackingName(backing)) continue;
    options->backing = backing;
    return absl::OkStatus();
  }
  return Bad("--backing", absl::StrFormat("'%s' must be anon or memfd", text.substr(0, 80)));
}

// Must be called after the memory is known.
absl::Status CheckHugePages(const std::string& text, RunOptions* options) {
  options->choose_huge_pages = text == "auto";
  if (options->choose_huge_pages) return absl::OkStatus();
  const std::optional<HugePages> huge = FindHugePages(text);
  if (!huge.has_value()) {
    return Bad("--huge-pages",
               absl::StrFormat("'%s' must be auto, off, thp, 2M or 1G", text.substr(0, 80)));
  }
  const std::string_view why = RamSizeError(options->memory_bytes, *huge);
  if (!why.empty()) {
    return Bad("--memory", absl::StrFormat("%s with --huge-pages %s: %s",
                                           FormatBytes(options->memory_bytes), text, why));
  }
  options->huge_pages = *huge;
  return absl::OkStatus();
}

constexpr std::chrono::milliseconds kShortestPeriod(10);
constexpr std::chrono::milliseconds kLongestPeriod(std::chrono::hours(1));

// A time from kShortestPeriod to kLongestPeriod; if `takes_none`, also 0.
absl::StatusOr<std::chrono::milliseconds> ParsePeriod(std::string_view option,
                                                      const std::string& text, bool takes_none) {
  const absl::StatusOr<std::chrono::milliseconds> period = ParseDuration(text);
  if (!period.ok() && !absl::IsOutOfRange(period.status())) return Bad(option, period.status());
  if (period.ok() && takes_none && period->count() == 0) return *period;
  if (period.ok() && *period >= kShortestPeriod && *period <= kLongestPeriod) return *period;
  return Bad(option,
             absl::StrFormat("'%s' must be from 10ms to 1h, like 1s, or off", text.substr(0, 80)));
}

// Must be called after the guest and the memory are known.
absl::Status CheckDirtyLog(const std::string& text, RunOptions* options) {
  if (text == "off") return absl::OkStatus();
  const absl::StatusOr<std::chrono::milliseconds> period =
      ParsePeriod("--dirty-log", text, /*takes_none=*/false);
  if (!period.ok()) return period.status();
  options->dirty_log_period = *period;
  const std::string why_not = options->WhyNoDirtyLog();
  return why_not.empty() ? absl::OkStatus() : Bad("--dirty-log", why_not);
}

// Must be called after the backing is known.
absl::Status CheckWorkingSet(const RunArguments& arguments, RunOptions* options) {
  const std::string& mode = arguments.write_protect;
  if (mode != "auto" && mode != "sync" && mode != "async") {
    return Bad("--write-protect",
               absl::StrFormat("'%s' must be auto, sync or async", mode.substr(0, 80)));
  }
  options->async_write_protect = mode == "async";
  const std::string& text = arguments.working_set;
  if (text == "off") return absl::OkStatus();
  const absl::StatusOr<std::chrono::milliseconds> period =
      ParsePeriod("--working-set", text, /*takes_none=*/true);
  if (!period.ok()) return period.status();
  if (period->count() == 0) return absl::OkStatus();
  options->working_set_period = *period;
  if (options->backing != Backing::kAnon) return absl::OkStatus();
  if (mode == "sync") {
    return Bad("--working-set",
               "the kernel's notes of writes, by which private memory is sampled, are off with "
               "--write-protect sync; leave that out, or use --backing memfd");
  }
  options->async_write_protect = true;
  return absl::OkStatus();
}

// Must be called after the backing, the working set and the events are known.
absl::Status CheckChurn(const std::string& text, RunOptions* options) {
  absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(text);
  if (!spec.ok()) return Bad("--churn", spec.status());
  ChurnLimits limits{options->backing, options->huge_pages};
  options->Limit(limits);
  absl::StatusOr<ChurnRates> rates = ResolveChurn(*spec, limits);
  if (!rates.ok()) return Bad("--churn", rates.status());
  options->churn = *std::move(spec);
  options->churn.rates = *std::move(rates);
  return absl::OkStatus();
}

absl::Status CheckFaultAround(const std::string& text, RunOptions* options) {
  const absl::StatusOr<uint64_t> pages = ParseNumber(text);
  if (!pages.ok() || *pages == 0 || *pages > FaultAroundHandler::kMaxPages) {
    return Bad("--fault-around",
               absl::StrFormat("'%s' must be a number of pages from 1 (off) to %d",
                               text.substr(0, 80), FaultAroundHandler::kMaxPages));
  }
  options->fault_around = *pages;
  return absl::OkStatus();
}

absl::Status CheckFaultHandlers(const std::string& text, RunOptions* options) {
  if (text == "auto") return absl::OkStatus();
  const absl::StatusOr<uint64_t> handlers = ParseNumber(text);
  if (!handlers.ok() || *handlers == 0 || *handlers > kMostEventReaders) {
    return Bad("--fault-handlers",
               absl::StrFormat("'%s' must be auto, or a number of threads from 1 to %u",
                               text.substr(0, 80), kMostEventReaders));
  }
  options->fault_handlers = static_cast<unsigned>(*handlers);
  return absl::OkStatus();
}

absl::Status CheckUffdEvents(const std::string& text, RunOptions* options) {
  if (text != "on" && text != "off") {
    return Bad("--uffd-events", absl::StrFormat("'%s' must be on or off", text.substr(0, 80)));
  }
  options->removal_events = text == "on";
  return absl::OkStatus();
}

absl::Status CheckRetiredCap(const std::string& text, RunOptions* options) {
  if (text == "auto") return absl::OkStatus();
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return Bad("--retired-cap", bytes.status());
  options->retired_cap_bytes = *bytes;
  return absl::OkStatus();
}

absl::Status CheckKernelEvents(const std::string& text, RunOptions* options) {
  for (const auto& [name, events] :
       {std::pair{"auto", KernelEvents::kAuto}, std::pair{"on", KernelEvents::kOn},
        std::pair{"off", KernelEvents::kOff}}) {
    if (text != name) continue;
    options->kernel_events = events;
    return absl::OkStatus();
  }
  return Bad("--kernel-events",
             absl::StrFormat("'%s' must be auto, on or off", text.substr(0, 80)));
}

// The machine opens the files, and says what is wrong with them.
absl::Status CheckDisks(const std::vector<std::string>& disks, RunOptions* options) {
  constexpr std::string_view kReadOnly = ",ro";
  for (const std::string& text : disks) {
    DiskFile disk{.path = text, .read_only = text.ends_with(kReadOnly)};
    if (disk.read_only) disk.path.resize(text.size() - kReadOnly.size());
    if (disk.path.empty()) return Bad("--disk", absl::StrFormat("'%s' names no file", text));
    options->disks.push_back(std::move(disk));
  }
  const std::string why_not = options->WhyNoDisk();
  return why_not.empty() ? absl::OkStatus() : Bad("--disk", why_not);
}

absl::Status CheckSeedAndDuration(const RunArguments& arguments, RunOptions* options) {
  const absl::StatusOr<uint64_t> seed = ParseNumber(arguments.seed);
  if (!seed.ok()) return Bad("--seed", seed.status());
  options->seed = *seed;
  if (arguments.duration == "auto") {
    // Linux ends by itself.
    if (options->RunsLinux()) options->duration = std::chrono::milliseconds(0);
  } else {
    const absl::StatusOr<std::chrono::milliseconds> duration = ParseDuration(arguments.duration);
    if (absl::IsOutOfRange(duration.status())) {
      return Bad("--duration", std::string(duration.status().message()) + "; write 0 for no end");
    }
    if (!duration.ok()) return Bad("--duration", duration.status());
    options->duration = *duration;
  }
  if (arguments.end_timeout == "auto") return absl::OkStatus();
  const absl::StatusOr<std::chrono::milliseconds> end = ParseDuration(arguments.end_timeout);
  if (!end.ok()) return Bad("--end-timeout", end.status());
  options->end_timeout = *end;
  return absl::OkStatus();
}

absl::Status CheckNameAndControl(const RunArguments& arguments,
                                 const SocketEnvironment& environment, RunOptions* options) {
  options->name = arguments.name.empty() ? absl::StrFormat("vm-%d", getpid()) : arguments.name;
  const absl::Status name = CheckVmName(options->name);
  if (!name.ok()) return Bad("--name", name);
  options->control_path =
      arguments.control.empty() ? DefaultSocketPath(options->name, environment) : arguments.control;
  const absl::StatusOr<sockaddr_un> address = SocketAddress(options->control_path);
  return address.ok() ? absl::OkStatus() : Bad("--control", address.status());
}

}  // namespace

absl::StatusOr<RunOptions> CheckRunArguments(const RunArguments& arguments,
                                             const SocketEnvironment& environment) {
  RunOptions options;
  options.guest = arguments.guest;
  if (!arguments.kernel.empty()) {
    options.guest = arguments.kernel;
    options.linux_guest = LinuxOptions{
        .initrd = arguments.initrd, .append = arguments.append, .console = arguments.console};
  }
  options.json = arguments.json;
  options.allow_host_changes = arguments.allow_host_changes;
  options.pin_vcpus = arguments.pin_vcpus;
  options.record_path = arguments.record;
  options.replay_path = arguments.replay;
  for (const absl::Status& status :
       {CheckMemory(arguments.memory, &options), CheckVcpus(arguments.vcpus, &options),
        CheckBacking(arguments.backing, &options), CheckHugePages(arguments.huge_pages, &options),
        CheckDirtyLog(arguments.dirty_log, &options), CheckKernel(arguments, &options),
        CheckHotplug(arguments.hotplug_memory, &options), CheckWorkingSet(arguments, &options),
        CheckUffdEvents(arguments.uffd_events, &options), CheckChurn(arguments.churn, &options),
        CheckFaultAround(arguments.fault_around, &options),
        CheckFaultHandlers(arguments.fault_handlers, &options),
        CheckRetiredCap(arguments.retired_cap, &options),
        CheckKernelEvents(arguments.kernel_events, &options), CheckDisks(arguments.disks, &options),
        CheckSeedAndDuration(arguments, &options),
        CheckNameAndControl(arguments, environment, &options)}) {
    if (!status.ok()) return status;
  }
  return options;
}

std::vector<std::string> NotesOn(const RunOptions& options, std::optional<uint64_t> available) {
  std::vector<std::string> notes;
  if (available.has_value() && options.memory_bytes > *available) {
    notes.push_back(absl::StrFormat(
        "--memory: %s is more than the %u MiB that this host has available; a guest that touches "
        "all of it is swapped out or killed; give it less, like --memory %uM",
        FormatBytes(options.memory_bytes), *available >> 20,
        std::max(*available / 2, kMinMemoryBytes) >> 20));
  }
  if (options.page_in_is_touch() && options.fault_around > 1) {
    notes.emplace_back(
        "--working-set turns --fault-around off: a page that is brought in ahead of the guest "
        "would count as touched");
  }
  return notes;
}

}  // namespace underfoot
