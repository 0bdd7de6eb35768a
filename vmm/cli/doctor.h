// Checks what this host offers to a hypervisor that moves guest memory, and what does not work
// without it.
//
// Thread safety: RunDoctor may be called from any thread. It closes everything that it opens.

#ifndef UNDERFOOT_VMM_CLI_DOCTOR_H_
#define UNDERFOOT_VMM_CLI_DOCTOR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/host/host_journal.h"
#include "vmm/host/huge_page_host.h"

namespace underfoot {

enum class CheckResult : uint8_t {
  kOk,
  kLess,     // `run` works, without the things that `cost` names
  kMissing,  // `run` cannot work
};

struct DoctorCheck {
  std::string name = {};  // "kvm", "userfaultfd", ...: stable
  CheckResult result = CheckResult::kOk;
  std::string found = {};   // what was found
  std::string cost = {};    // what does not work; empty if ok
  std::string remedy = {};  // what to do about it; empty if ok
};

struct DoctorReport {
  std::vector<DoctorCheck> checks;

  [[nodiscard]] bool CanRun() const;  // nothing is kMissing
};

// The paths to check. With other paths a test can simulate that something is missing.
struct DoctorPaths {
  std::string dev_kvm = "/dev/kvm";
  std::string dev_userfaultfd = "/dev/userfaultfd";
  std::string sys_module = "/sys/module";
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
  HostPlaces host_changes = {};
  HugePagePlaces huge_pages = {};
  std::string mountinfo = "/proc/self/mountinfo";  // lists the mounts of tracefs
};

DoctorReport RunDoctor(const DoctorPaths& paths = {});
// Only the checks by which a run may turn out to be impossible.
DoctorReport CheckNeeds(const DoctorPaths& paths = {});
// Whether the kernel notifier will find its records.
DoctorReport CheckKernelRecords(const DoctorPaths& paths = {});

// The memory that is available without swapping, on the host and in the memory cgroups of this
// process; absent: the host does not report it.
std::optional<uint64_t> AvailableBytes(const DoctorPaths& paths = {});

// First whether a run can work here and which checks are not ok, then a line for each check, and two
// more for each check that is not ok.
std::string DoctorText(const DoctorReport& report);
// {"can_run": bool, "checks": [{"name", "result", "found", "cost", "remedy"}]}
std::string DoctorJson(const DoctorReport& report);

// One line for each check that is not ok, which `run` prints at its start; empty if all are ok. Each
// line begins with `prefix`.
std::string DoctorWarnings(const DoctorReport& report, std::string_view prefix = {});

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_DOCTOR_H_
