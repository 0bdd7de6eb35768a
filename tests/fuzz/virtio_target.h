// A driver that does anything, as a function of bytes: for libFuzzer, and for the test that runs the
// corpus.

#ifndef UNDERFOOT_TESTS_FUZZ_VIRTIO_TARGET_H_
#define UNDERFOOT_TESTS_FUZZ_VIRTIO_TARGET_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace underfoot::testing {

// Guest memory and the devices, made at the first call. An error: this host has no userfaultfd for us.
absl::Status VirtioTargetReady();

struct VirtioTargetCounts {
  uint64_t requests = 0;  // that the device has served
  uint64_t needed_resets = 0;
};

// Plays the bytes against a block device with two queues, then resets it. Aborts if the reset does not
// end, or if a device beside it does not serve an ordinary request.
VirtioTargetCounts RunVirtioTarget(std::span<const uint8_t> bytes);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_FUZZ_VIRTIO_TARGET_H_
