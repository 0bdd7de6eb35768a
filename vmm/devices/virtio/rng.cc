#include "vmm/devices/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace underfoot::virtio {
namespace {

// True if all bytes were filled.
bool Fill(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t filled = getrandom(bytes.data(), bytes.size(), 0);
    if (filled < 0 && errno == EINTR) continue;
    if (filled <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(filled));
  }
  return true;
}

}  // namespace

uint32_t Rng::device_id() const { return VIRTIO_ID_RNG; }

Served Rng::Serve(Request& request) {
  // Section 5.4.6: a buffer of this device has nothing to read, and something to write.
  if (request.readable_bytes() != 0 || request.writable_bytes() == 0) return {.answered = false};
  std::array<std::byte, 256> bytes;
  const uint64_t wanted = std::min(request.writable_bytes(), kMaxBytes);
  uint64_t done = 0;
  while (done < wanted) {
    const auto piece = std::span(bytes).first(std::min<uint64_t>(wanted - done, bytes.size()));
    if (!Fill(piece) || !request.Write(done, piece)) break;
    done += piece.size();
  }
  request.counters().to_guest_bytes.Add(done);
  if (done < wanted) request.counters().errors.Add();
  return {.written = static_cast<uint32_t>(done)};
}

}  // namespace underfoot::virtio
