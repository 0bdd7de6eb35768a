// A file for swap space. It outlives a reboot, and the journal that names it does not: so its name
// says what it is, and a lock that it is in use.
//
// Thread safety: one thread; several processes at once.

#ifndef UNDERFOOT_VMM_HOST_SWAP_FILE_H_
#define UNDERFOOT_VMM_HOST_SWAP_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/host/host_places.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class SwapFile {
 public:
  // Of this process.
  static std::string PathOf(const HostPlaces& places);
  // Of `bytes`, at PathOf. Locked as long as the descriptor is open, in this process or a child.
  static absl::StatusOr<UniqueFd> Make(const HostPlaces& places, uint64_t bytes);

  // The files of runs that are gone, as far as this user may open them.
  static std::vector<std::string> Orphans(const HostPlaces& places);
  // Swap space on it goes too. Gone is removed.
  static absl::Status Remove(const std::string& path);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_SWAP_FILE_H_
