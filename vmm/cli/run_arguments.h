// The arguments of `underfoot run` as text, and the check that makes RunOptions of them.
//
// Thread safety: pure functions of their arguments and of the file system.

#ifndef UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_
#define UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_

#include <string>

#include "absl/status/statusor.h"
#include "vmm/control/socket_path.h"
#include "vmm/run_options.h"

namespace underfoot {

struct RunArguments {
  std::string guest = "mixed";
  std::string memory = "256M";
  std::string vcpus = "2";
  std::string backing = "anon";
  std::string fault_around = "64";
  std::string uffd_events = "on";
  std::string churn = "off";
  std::string retired_cap = "4M";
  std::string kernel_events = "auto";
  std::string write_protect = "auto";
  std::string working_set = "off";
  std::string seed = "1";
  std::string duration = "10s";
  std::string control;  // empty: the default of the name
  std::string name;     // empty: "vm-<pid>"
  bool json = false;
  bool allow_host_changes = false;
  std::string record;  // empty: none
  std::string replay;  // empty: none
};

// The error names the option, its value and what is allowed.
absl::StatusOr<RunOptions> CheckRunArguments(const RunArguments& arguments,
                                             const SocketEnvironment& environment);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_
