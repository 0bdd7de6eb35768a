// Workload `smp`: all vCPUs touch the same and adjacent pages at the same moment, so that faults of
// one page are concurrent. Each vCPU has its own word in every page.
//
//   barrier | check own word of the last round, write this round's | barrier | check all words
//
// In even rounds all vCPUs visit the pages in the same order. In odd rounds each starts at another
// page.

#ifndef UNDERFOOT_GUEST_SMP_H_
#define UNDERFOOT_GUEST_SMP_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// Runs one round. `round` counts from 1 and is the same for all vCPUs. True if they agreed, by
// `stop`, to end instead.
bool SmpRound(Context& context, uint64_t round, bool stop);

// Verifies all words of this vCPU's share of the pages. Only after SmpRound has returned true.
void VerifySmp(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_SMP_H_
