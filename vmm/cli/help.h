// What `--help` shows beside the options: the text below them, and lines that are not too long.
//
// Thread safety: pure functions of their arguments.

#ifndef UNDERFOOT_VMM_CLI_HELP_H_
#define UNDERFOOT_VMM_CLI_HELP_H_

#include <string>
#include <string_view>

#include "vmm/cli/command.h"

namespace underfoot {

inline constexpr std::string_view kMainFooter = R"(Examples:
  underfoot doctor                                what this machine offers
  underfoot run --churn mixed                     two vCPUs, 256 MiB, ten seconds of churn
  underfoot run --churn storm --duration 0 &      until `underfoot quit`
  underfoot stats --watch                         every counter, once a second
  underfoot stats uffd --nonzero                  the counters of one group that are not 0
  underfoot events                                each change of its host memory, as it happens
  underfoot stage2 0x1000                         where guest frame 0x1000 is right now
Exit codes: 0 good, 1 failure, 2 wrong command line; of `run` see `underfoot run --help`.
`underfoot COMMAND --help` explains a command.)";

inline constexpr std::string_view kDoctorFooter =
    "Exit codes: 0 a guest can run here, 1 it cannot, 2 wrong command line.";

std::string RunFooter();
std::string ClientFooter(ClientVerb verb);

// Breaks the lines of CLI11's help, which breaks none.
std::string WrappedHelp(const std::string& help);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_HELP_H_
