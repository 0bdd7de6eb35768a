// `underfoot run`: one machine from its options to its exit status.
//
// Thread safety: the main thread, once at a time; it takes SIGINT and SIGTERM for a request to end.

#ifndef UNDERFOOT_VMM_CLI_RUN_H_
#define UNDERFOOT_VMM_CLI_RUN_H_

#include "vmm/run_options.h"

namespace underfoot {

// Runs until the duration is over, the guest has ended, `quit` was asked for or a signal came;
// prints the guest's serial lines, a status line on a terminal and a summary. Returns the exit
// status: 0 when the guest's verdict is good, the audit is clean and nothing was left over; else 1.
int RunMachine(const RunOptions& options);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_RUN_H_
