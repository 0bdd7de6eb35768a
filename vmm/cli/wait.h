// Waits for a machine to end and returns its result: `underfoot wait`, `underfoot quit --wait`.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CLI_WAIT_H_
#define UNDERFOOT_VMM_CLI_WAIT_H_

#include "vmm/cli/client_commands.h"
#include "vmm/control/client.h"

namespace underfoot {

// If the machine may answer later (MayAnswerLater): says once that the command still waits, and returns
// true after a pause.
bool PauseForLaterAnswer(const absl::Status& status, bool& said, const Output& output);

// Waits as long as a program listens at the socket, also if it is stopped or has no connection free.
// A machine that ends while it has none does not know of this client, and does not wait for it: then
// the result is lost.
//
// Prints the result of the run, as JSON or as text, and returns its exit code. If the socket
// disappears without a result, the run did not finish. Only the run itself reports problems that
// are found after the socket is removed (a remaining thread or descriptor, changes of the host that
// could not be undone). Returns when the socket has been removed, so that another machine can use
// its path.
int WaitForEnd(ControlClient& client, bool json, const Output& output);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_WAIT_H_
