// Workload `smp`: all vCPUs touch the same and neighbouring pages at the same moment, so that
// concurrent faults of one page meet. In every page each vCPU has a word of its own.
//
//   barrier | own word of the last round? write this round's | barrier | everybody's words?
//
// In even rounds all take the pages in the same order, in odd rounds each starts at another page.

#ifndef UNDERFOOT_GUEST_SMP_H_
#define UNDERFOOT_GUEST_SMP_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// One round; `round` counts from 1 and is the same for all vCPUs. True when they agreed, by `stop`,
// to end instead.
bool SmpRound(Context& context, uint64_t round, bool stop);

// Verifies this vCPU's share of the pages, all words of each. Only after SmpRound said to end.
void VerifySmp(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_SMP_H_
