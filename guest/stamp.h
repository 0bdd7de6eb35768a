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

// Pages that vCPU 0 gives away for a time: whole chunks of its own, from the last one on, up to half of
// them. They are zeroed first, and nothing touches them until they are back. Then they must be zeroes
// until they are written again.
struct LentChunk {
  uint64_t gpa;
  uint64_t pages;
};
// False: half of the chunks are lent already.
bool LendChunk(Context& context, LentChunk* chunk);
LentChunk LastLent(const Context& context);
// Takes the last one back.
void TakeChunkBack(Context& context);

// Adjacent precious pages that are no chunk of Pages, with one note for all of them. The note is 0 at
// the start, when all pages are zeroes.
struct OtherPages {
  uint64_t gpa;
  uint64_t pages;
  uint32_t* note;
};
void VerifyOther(Context& context, const OtherPages& pages);
void WriteOther(Context& context, const OtherPages& pages);
// Whether they have content that must not be lost.
bool IsWritten(const OtherPages& pages);
// The pages have lost their content: they must be zeroes until they are written again.
void NoteGone(const OtherPages& pages);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_STAMP_H_
