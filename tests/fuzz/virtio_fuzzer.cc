// The entry of libFuzzer. Built with -DUNDERFOOT_FUZZERS=ON by clang, see tests/README.md.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/fuzz/virtio_target.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const absl::Status ready = underfoot::testing::VirtioTargetReady(); !ready.ok()) {
    std::fprintf(stderr, "virtio_fuzzer: %s\n", std::string(ready.message()).c_str());
    std::exit(1);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static_cast<void>(underfoot::testing::RunVirtioTarget({data, size}));
  return 0;
}
