// The working set as it is reported: how many pages of each slot were touched in a window of time.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_WORKING_SET_INFO_H_
#define UNDERFOOT_VMM_STATS_WORKING_SET_INFO_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

struct WorkingSetSlot {
  uint32_t id = 0;
  GfnRange range;
  std::optional<uint64_t> touched;  // number of pages; absent: the slot is not sampled
};

struct WorkingSetInfo {
  // False: only writes and page-ins are observed; reads of present pages leave no trace.
  bool sees_reads = false;
  uint64_t period_us = 0;   // the time between two scans; 0: scans only on request
  uint64_t scans = 0;       // the scans whose periods are in the window; 0: no scan has ended yet
  uint64_t covered_us = 0;  // the length of time that the window really covers
  std::vector<WorkingSetSlot> slots;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_WORKING_SET_INFO_H_
