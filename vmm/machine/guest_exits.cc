#include "vmm/machine/guest_exits.h"

#include <algorithm>
#include <cstddef>

#include "vmm/base/monotonic.h"

namespace underfoot {

GuestExits::GuestExits(unsigned vcpus, Mmu& mmu, GuestAccess& access, MmHooks& hooks,
                       PortDevices& ports, virtio::MmioBus& devices, Hole hole)
    : access_(access), hooks_(hooks), ports_(ports), devices_(devices), hole_(hole) {
  for (unsigned i = 0; i < vcpus; ++i) vcpus_.push_back(std::make_unique<PerVcpu>(mmu));
}

ExitOutcome GuestExits::OnPortIo(unsigned vcpu, const PortIo& io) {
  const ExitOutcome outcome = ports_.OnPortIo(vcpu, io);
  if (outcome == ExitOutcome::kStop) {
    absl::MutexLock lock(&mutex_);
    ended_ = static_cast<unsigned>(vcpus_.size());
  }
  return outcome;
}

absl::Status GuestExits::OnMmio(unsigned vcpu, Gpa gpa, std::span<std::byte> data, bool write) {
  if (virtio::MmioBus::Claims(gpa)) {
    devices_.Access(gpa, data, write);
    return absl::OkStatus();
  }
  Reader& reader = vcpus_[vcpu]->reader;
  const absl::Status done =
      write ? access_.Write(reader, gpa, data) : access_.Read(reader, gpa, data);
  if (hole_ == Hole::kIsFatal || !absl::IsOutOfRange(done)) return done;
  if (!write) std::fill(data.begin(), data.end(), std::byte{0xff});
  return absl::OkStatus();
}

ExitOutcome GuestExits::OnHalt(unsigned) {
  absl::MutexLock lock(&mutex_);
  ++ended_;
  return ExitOutcome::kStop;
}

MemoryFaultOutcome GuestExits::OnMemoryFault(unsigned vcpu, const MemoryFault& fault) {
  if (fault.kind == MemoryFaultKind::kPoisoned) return MemoryFaultOutcome::kFail;
  // KVM reports no address. A protection that is in force, or that was taken or lifted since the
  // last fault of this vCPU, explains the fault. Without one the fault would repeat for ever.
  const uint32_t epoch = hooks_.protection_epoch();
  if (epoch == vcpus_[vcpu]->protection_epoch_seen) return MemoryFaultOutcome::kFail;
  hooks_.WaitForProtectionChange();
  vcpus_[vcpu]->protection_epoch_seen = epoch;
  return MemoryFaultOutcome::kRetry;
}

void GuestExits::OnFatal(unsigned, const absl::Status& error) {
  absl::MutexLock lock(&mutex_);
  fatal_.Update(error);
  ++ended_;
}

absl::Status GuestExits::fatal() const {
  absl::MutexLock lock(&mutex_);
  return fatal_;
}

bool GuestExits::WaitForAll(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return AwaitFor(mutex_, absl::Condition(this, &GuestExits::AllEndedLocked), timeout);
}

bool GuestExits::WaitForAllOrQuit(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto over = [this]()
                        ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return quit_ || AllEndedLocked(); };
  return AwaitFor(mutex_, absl::Condition(&over), timeout);
}

void GuestExits::RequestQuit() {
  absl::MutexLock lock(&mutex_);
  quit_ = true;
}

}  // namespace underfoot
