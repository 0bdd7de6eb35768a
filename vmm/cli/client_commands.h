// The commands that ask a running machine.
//
// Thread safety: one thread; it blocks until the answer is there, or with --watch until the machine
// is gone.

#ifndef UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_
#define UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_

#include <ostream>

#include "vmm/cli/command.h"
#include "vmm/control/socket_path.h"

namespace underfoot {

struct Output {
  std::ostream& out;
  std::ostream& err;
  bool terminal = false;  // `out` is one: --watch starts each round on a clear screen
};

// The exit code.
int RunClient(const ClientCommand& command, const SocketEnvironment& environment,
              const Output& output);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_CLIENT_COMMANDS_H_
