// `underfoot run`: one machine from its options to its exit status.
//
// Thread safety: the main thread, one run at a time. The run treats HUP, INT and TERM as requests
// to end.

#ifndef UNDERFOOT_VMM_CLI_RUN_H_
#define UNDERFOOT_VMM_CLI_RUN_H_

#include "vmm/config/run_options.h"

namespace underfoot {

// Runs until the duration is over, the guest has ended, `quit` was requested or a signal arrived.
// Prints the guest's serial lines, a status line on a terminal, and a summary. Returns the exit
// status, see run_end.h.
int RunMachine(const RunOptions& options);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_RUN_H_
