// The commands that send requests to a running machine.
//
// Thread safety: one thread. It blocks until the answer has come, or with --watch until the machine
// has ended.

#ifndef UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_
#define UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_

#include "vmm/cli/command.h"
#include "vmm/cli/output.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

// Returns the exit code.
int RunClient(const ClientCommand& command, const SocketEnvironment& environment,
              const Output& output);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_
