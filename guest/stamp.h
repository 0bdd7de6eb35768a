// Workload `stamp`: each vCPU writes generation stamps over its own pages and verifies them.
//
// A page has kStampWords words, spread over it, all computed from (seed, gfn, generation).
//   precious      Every word is the last one written.
//   discardable   The same, or the whole page has become zeroes. Words are read in the order in
//                 which they were written. So a zero may follow a stamp (discarded in between), but
//                 a stamp after a zero is old content that has come back after a discard.
// A page that was never written is all zeroes, like all memory at the start.

#ifndef UNDERFOOT_GUEST_STAMP_H_
#define UNDERFOOT_GUEST_STAMP_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// Verifies and rewrites one chunk of this vCPU, chosen at random.
void StampRound(Context& context);

// Verifies all pages of this vCPU, or BootInfo's final_pages of them, evenly spread.
void VerifyStamps(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_STAMP_H_
