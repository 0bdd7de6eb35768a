#include "vmm/devices/exit_device.h"

#include <algorithm>
#include <cstring>

#include "vmm/base/monotonic.h"

namespace underfoot {

ExitDevice::ExitDevice(unsigned vcpus) : verdicts_(vcpus) {}

ExitOutcome ExitDevice::Access(unsigned vcpu, const PortIo& io) {
  if (!io.write) {
    std::fill(io.data.begin(), io.data.end(), std::byte{0});
    return ExitOutcome::kContinue;
  }
  uint32_t code = 0;
  std::memcpy(&code, io.data.data(), std::min(sizeof(code), io.data.size()));
  absl::MutexLock lock(&mutex_);
  if (vcpu >= verdicts_.size()) return ExitOutcome::kFail;
  if (!verdicts_[vcpu]) verdicts_[vcpu] = static_cast<abi::Verdict>(code);
  return ExitOutcome::kContinue;
}

std::optional<abi::Verdict> ExitDevice::verdict(unsigned vcpu) const {
  absl::MutexLock lock(&mutex_);
  return vcpu < verdicts_.size() ? verdicts_[vcpu] : std::nullopt;
}

bool ExitDevice::AllLocked() const {
  return std::all_of(verdicts_.begin(), verdicts_.end(),
                     [](const auto& v) { return v.has_value(); });
}

bool ExitDevice::WaitForAll(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return AwaitFor(mutex_, absl::Condition(this, &ExitDevice::AllLocked), timeout);
}

std::optional<abi::Verdict> ExitDevice::overall() const {
  absl::MutexLock lock(&mutex_);
  if (!AllLocked()) return std::nullopt;
  for (const auto& verdict : verdicts_) {
    if (*verdict != abi::Verdict::kGood) return verdict;
  }
  return abi::Verdict::kGood;
}

}  // namespace underfoot
