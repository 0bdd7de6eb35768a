// Workload `stamp`: each vCPU writes generation stamps over its own pages and verifies them.
//
// A page carries kStampWords words, spread over it, all computed from (seed, gfn, generation).
//   precious      every word is the last one written
//   discardable   the same, or the whole page has become zeroes: words are read in the order in
//                 which they were written, so a zero may follow a stamp (discarded meanwhile), but
//                 a stamp that follows a zero has come back from the dead
// A page never written yet is all zeroes, as all memory at the start.

#ifndef UNDERFOOT_GUEST_STAMP_H_
#define UNDERFOOT_GUEST_STAMP_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// Verifies and rewrites one of this vCPU's chunks, chosen at random.
void StampRound(Context& context);

// Verifies all that this vCPU owns, or BootInfo's final_pages of it, evenly spread.
void VerifyStamps(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_STAMP_H_
