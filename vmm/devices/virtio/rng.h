// The virtio entropy device (virtio 1.2, section 5.4): fills buffers by getrandom(2).
//
// Thread safety: as Backend.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_RNG_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_RNG_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "vmm/devices/virtio/backend.h"

namespace underfoot::virtio {

class Rng final : public Backend {
 public:
  // A longer buffer is filled in part, which the standard allows.
  static constexpr uint64_t kMaxBytes = uint64_t{64} << 10;

  std::string name() const override { return "rng"; }
  uint32_t device_id() const override;
  uint64_t features() const override { return 0; }
  uint16_t queues() const override { return 1; }
  std::span<const std::byte> config() const override { return {}; }
  Served Serve(Request& request) override;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_RNG_H_
