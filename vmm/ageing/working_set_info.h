// The working set as it is answered: how many pages of each slot were touched in a window of time.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_AGEING_WORKING_SET_INFO_H_
#define UNDERFOOT_VMM_AGEING_WORKING_SET_INFO_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "mmu/types.h"

namespace underfoot {

struct WorkingSetSlot {
  uint32_t id = 0;
  GfnRange range;
  std::optional<uint64_t> touched;  // pages; absent: the slot is not sampled
};

struct WorkingSetInfo {
  // False: writes and page-ins only, reads of pages that are present leave no trace.
  bool sees_reads = false;
  uint64_t period_us = 0;   // between scans; 0: by hand
  uint64_t scans = 0;       // whose periods are in the window; 0: none has ended yet
  uint64_t covered_us = 0;  // how far back the window really reaches
  std::vector<WorkingSetSlot> slots;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AGEING_WORKING_SET_INFO_H_
