// What a process, and the Mmu of a machine, hold: to see that a machine has left nothing behind.
//
// Thread safety: a snapshot; meaningful only while no other thread opens or starts anything.

#ifndef UNDERFOOT_VMM_MACHINE_CENSUS_H_
#define UNDERFOOT_VMM_MACHINE_CENSUS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "mmu/base/stats.h"

namespace underfoot {

struct Census {
  uint64_t descriptors = 0;
  uint64_t threads = 0;

  static Census Take();
};

// One line for each number that is higher than before. The kernel still lists a thread for a moment
// after it was joined. Therefore only threads and descriptors that are still there after `patience`
// count.
std::vector<std::string> LeftBehind(const Census& before,
                                    absl::Duration patience = absl::Seconds(1));

// What is left in the Mmu of a machine whose threads have stopped, except for `hanging` device
// workers; empty: nothing. A worker that hangs has the caches of its ring, and at most one bracket: it
// may hang in the call by which the balloon discards memory.
std::string LeftInMmu(const MmuStats& stats, uint64_t hanging);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_CENSUS_H_
