#include "vmm/devices/text_port.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

namespace underfoot {

// Another vCPU may write to the text meanwhile, if the guest is not ours; so it is copied once.
ExitOutcome TextPort::Access(unsigned vcpu, const PortIo& io) {
  uint32_t bytes = 0;
  if (!io.write || vcpu >= abi::kMaxVcpus || io.data.size() != sizeof(bytes)) {
    return ExitOutcome::kFail;
  }
  std::memcpy(&bytes, io.data.data(), sizeof(bytes));
  std::array<std::byte, abi::kTextBytes> text;
  std::memcpy(text.data(), PointerOf(system_area_ + abi::TextGpa(vcpu)), text.size());
  return serial_.Print(vcpu, std::span(text).first(std::min<size_t>(bytes, text.size())));
}

}  // namespace underfoot
