// The dirty log as it is reported: what the last collection found, and the pages that a client
// takes.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_DIRTY_INFO_H_
#define UNDERFOOT_VMM_STATS_DIRTY_INFO_H_

#include <cstdint>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

struct DirtySlot {
  uint32_t id = 0;
  GfnRange range;
  uint64_t last = 0;     // dirty pages in the last collection
  uint64_t waiting = 0;  // dirty pages that no client has taken yet
};

struct DirtyInfo {
  uint64_t period_us = 0;    // the time between two collections; 0: only on request
  uint64_t collections = 0;  // the number of the last collection; 0: none has ended yet
  uint64_t age_us = 0;       // the time since it ended, or since the machine was made
  std::vector<DirtySlot> slots;
};

// The pages that were written since the last take.
struct DirtyPages {
  uint64_t collections = 0;     // the number of the last collection that is in it
  uint64_t pages = 0;           // of all of RAM; page n is gfn n
  std::vector<uint64_t> words;  // one bit for each page, the lowest bit of a word first
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_DIRTY_INFO_H_
