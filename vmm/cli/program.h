// The `underfoot` program except for the machine: from the command line to the exit code.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CLI_PROGRAM_H_
#define UNDERFOOT_VMM_CLI_PROGRAM_H_

#include <functional>
#include <string>
#include <vector>

#include "vmm/cli/client_commands.h"
#include "vmm/config/run_options.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

// `arguments` is without the program's name. `run` is called for `underfoot run` and returns its
// exit code.
int RunProgram(const std::vector<std::string>& arguments, const SocketEnvironment& environment,
               const Output& output, const std::function<int(const RunOptions&)>& run);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_PROGRAM_H_
