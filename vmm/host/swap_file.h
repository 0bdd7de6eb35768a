// A file for swap space. It survives a reboot, and the journal that names it does not. Therefore
// its name shows what it is, and a lock shows that it is in use.
//
// Thread safety: one thread in each process; several processes at once.

#ifndef UNDERFOOT_VMM_HOST_SWAP_FILE_H_
#define UNDERFOOT_VMM_HOST_SWAP_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/host_places.h"

namespace underfoot {

// The header of swap space is one page, which ends with the signature.
inline constexpr size_t kSwapHeaderBytes = 4096;
inline constexpr std::string_view kSwapSignature = "SWAPSPACE2";

class SwapFile {
 public:
  // The path of this process's swap file.
  static std::string PathOf(const HostPlaces& places);
  // Makes a file of `bytes` at PathOf. After an error the file does not exist. The file stays
  // locked as long as the descriptor is open, in this process or a child.
  static absl::StatusOr<UniqueFd> Make(const HostPlaces& places, uint64_t bytes);

  // Lists the files that dead runs left behind, as far as this user may open them: files with a
  // name in PathOf's form, the signature of swap space, and no lock.
  static std::vector<std::string> Orphans(const HostPlaces& places);
  // Also switches swap space on the file off. A file that does not exist counts as removed.
  static absl::Status Remove(const std::string& path);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_SWAP_FILE_H_
