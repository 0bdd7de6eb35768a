// The arguments of `underfoot run` as text, and the checks that turn them into RunOptions.
//
// Thread safety: pure functions of their arguments and of the file system.

#ifndef UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_
#define UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/config/run_options.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

struct RunArguments {
  std::string guest = "mixed";
  std::string kernel;  // empty: no Linux guest
  std::string initrd;  // empty: none
  std::string append;
  bool console = false;
  std::string memory = "256M";
  std::string hotplug_memory;
  std::string vcpus = "2";
  std::string backing = "anon";
  std::string huge_pages = "auto";
  std::string fault_around = "64";
  std::string fault_handlers = "auto";
  bool pin_vcpus = false;
  std::string uffd_events = "on";
  std::string churn = "off";
  std::string retired_cap = "auto";
  std::string kernel_events = "auto";
  std::string write_protect = "auto";
  std::string working_set = "off";
  std::vector<std::string> disks;
  std::string dirty_log = "off";
  std::string seed = "1";
  std::string duration = "auto";
  std::string end_timeout = "auto";
  std::string control;  // empty: the default path for the name
  std::string name;     // empty: "vm-<pid>"
  bool json = false;
  bool allow_host_changes = false;
  std::string record;  // empty: none
  std::string replay;  // empty: none
};

// The error names the option, its value and the allowed values.
absl::StatusOr<RunOptions> CheckRunArguments(const RunArguments& arguments,
                                             const SocketEnvironment& environment);

// Notes for the user before the run, one line each. `available` is the free memory of the host;
// absent: unknown.
std::vector<std::string> NotesOn(const RunOptions& options, std::optional<uint64_t> available);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_RUN_ARGUMENTS_H_
