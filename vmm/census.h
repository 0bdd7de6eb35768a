// What a process holds: to see that a machine has left nothing behind.
//
// Thread safety: a snapshot; meaningful when nobody else opens or starts anything meanwhile.

#ifndef UNDERFOOT_VMM_CENSUS_H_
#define UNDERFOOT_VMM_CENSUS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace underfoot {

struct Census {
  uint64_t descriptors = 0;
  uint64_t threads = 0;

  static Census Take();
};

// One line for each thing of which there is more than before. The kernel shows a thread for a
// moment longer than it takes to join it: only what is still there after `patience` counts.
std::vector<std::string> LeftBehind(const Census& before,
                                    absl::Duration patience = absl::Seconds(1));

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CENSUS_H_
