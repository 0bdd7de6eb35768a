// The one line that `underfoot run` keeps up to date on a terminal.
//
// Thread safety: a pure function.

#ifndef UNDERFOOT_VMM_CLI_STATUS_LINE_H_
#define UNDERFOOT_VMM_CLI_STATUS_LINE_H_

#include <cstddef>
#include <string>

#include "vmm/stats/stats.h"

namespace underfoot {

// Rates are for the time between the two; equal times give no rates. The line has at most `columns`
// columns, so that a terminal never wraps it: the last fields are left out; 0: no limit. It has no
// newline and no control characters.
std::string StatusLine(const Stats& now, const Stats& before, size_t columns = 0);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_STATUS_LINE_H_
