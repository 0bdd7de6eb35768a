// What this machine offers to a hypervisor that moves guest memory, and what is lost without it.
//
// Thread safety: RunDoctor may be called from any thread. Everything it opens it closes again.

#ifndef UNDERFOOT_VMM_DOCTOR_H_
#define UNDERFOOT_VMM_DOCTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/host/host_journal.h"

namespace underfoot {

enum class CheckResult : uint8_t {
  kOk,
  kLess,     // `run` works, and loses what `cost` says
  kMissing,  // `run` cannot work
};

struct DoctorCheck {
  std::string name = {};  // "kvm", "userfaultfd", ...: stable
  CheckResult result = CheckResult::kOk;
  std::string found = {};   // what there is
  std::string cost = {};    // what is lost; empty when ok
  std::string remedy = {};  // what to do about it; empty when ok
};

struct DoctorReport {
  std::vector<DoctorCheck> checks;

  [[nodiscard]] bool CanRun() const;  // nothing is kMissing
};

// Where to look. Another root lets a test take something away.
struct DoctorPaths {
  std::string dev_kvm = "/dev/kvm";
  std::string dev_userfaultfd = "/dev/userfaultfd";
  std::string sys_module = "/sys/module";
  std::string proc = "/proc";
  HostPlaces host_changes = {};
  std::vector<std::string> tracefs = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
};

DoctorReport RunDoctor(const DoctorPaths& paths = {});

// A line a check, and one or two more under each that is not ok.
std::string DoctorText(const DoctorReport& report);
// {"can_run": bool, "checks": [{"name", "result", "found", "cost", "remedy"}]}
std::string DoctorJson(const DoctorReport& report);

// One line for each check that is not ok, for `run` to print up front; empty when all is well.
std::string DoctorWarnings(const DoctorReport& report);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DOCTOR_H_
