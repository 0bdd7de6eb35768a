// Gives the content of guest memory back to the host, in pieces: no bracket is longer than a piece, and a
// request that its driver gives up ends soon.
//
// Thread safety: any thread. The caller holds no section and no lock.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_GIVE_BACK_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_GIVE_BACK_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "mmu/base/types.h"
#include "vmm/base/backing.h"
#include "vmm/devices/virtio/backend.h"

namespace underfoot::virtio {

class GiveBack {
 public:
  using Discard = std::function<absl::Status(HvaRange)>;

  GiveBack(Discard discard, HugePages huge_pages)
      : discard_(std::move(discard)),
        // The host discards huge pages whole.
        piece_bytes_(std::max(kPieceBytes, HostPageBytes(huge_pages))) {}

  // Calls `done` after each piece; `gone`: the host has taken its content back.
  void operator()(HvaRange pages, Request& request,
                  absl::FunctionRef<void(HvaRange piece, bool gone)> done) const {
    while (!pages.empty() && !request.abandoned()) {
      const HvaRange piece{pages.begin, std::min(pages.end, pages.begin + piece_bytes_)};
      pages.begin = piece.end;
      request.BeforeWait();
      done(piece, discard_(piece).ok());
    }
  }

 private:
  static constexpr uint64_t kPieceBytes = uint64_t{16} << 20;

  const Discard discard_;
  const uint64_t piece_bytes_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_GIVE_BACK_H_
