#include "vmm/kvm/vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"

namespace underfoot {
namespace {

absl::Status IoctlError(const char* name, unsigned index) {
  return absl::ErrnoToStatus(errno, absl::StrFormat("%s of vCPU %u", name, index));
}

}  // namespace

void Vcpu::Unmap::operator()(kvm_run* run) const { static_cast<void>(munmap(run, bytes)); }

absl::StatusOr<Vcpu> Vcpu::Create(const Kvm& kvm, const Vm& vm, unsigned index) {
  UniqueFd fd(ioctl(vm.fd(), KVM_CREATE_VCPU, index));
  if (!fd.valid()) {
    const int error = errno;
    return ErrnoStatus(
        error, absl::StrFormat("KVM_CREATE_VCPU (index %u)", index),
        absl::StrFormat("this KVM takes at most %d vCPUs", kvm.CheckExtension(KVM_CAP_MAX_VCPUS)));
  }
  void* page = mmap(nullptr, kvm.run_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("mmap of kvm_run (%u bytes) of vCPU %u", kvm.run_bytes(), index));
  }
  return Vcpu(std::move(fd), RunPage(static_cast<kvm_run*>(page), Unmap{kvm.run_bytes()}), index);
}

RunOutcome Vcpu::Run() {
  if (ioctl(fd(), KVM_RUN, 0) == 0) return RunOutcome::kExit;
  switch (errno) {
    case EINTR:
    case EAGAIN:  // the kernel wants to enter a nested state again
      return RunOutcome::kInterrupted;
    case EFAULT:
    case EHWPOISON:
      return RunOutcome::kMemoryFault;
    default:
      return RunOutcome::kFailed;
  }
}

// Relaxed: the kernel reads the field when the ioctl starts. The requesting thread and the vCPU
// thread are ordered by VcpuThread's mutex, and a later request is followed by a signal.
void Vcpu::RequestExit() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(1, std::memory_order_relaxed);
}

void Vcpu::AllowEntry() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(0, std::memory_order_relaxed);
}

absl::StatusOr<kvm_regs> Vcpu::GetRegisters() const {
  kvm_regs registers{};
  if (ioctl(fd(), KVM_GET_REGS, &registers) < 0) return IoctlError("KVM_GET_REGS", index_);
  return registers;
}

absl::StatusOr<kvm_sregs> Vcpu::GetSystemRegisters() const {
  kvm_sregs registers{};
  if (ioctl(fd(), KVM_GET_SREGS, &registers) < 0) return IoctlError("KVM_GET_SREGS", index_);
  return registers;
}

absl::Status Vcpu::SetRegisters(const kvm_regs& registers) {
  if (ioctl(fd(), KVM_SET_REGS, &registers) < 0) return IoctlError("KVM_SET_REGS", index_);
  return absl::OkStatus();
}

absl::Status Vcpu::SetSystemRegisters(const kvm_sregs& registers) {
  if (ioctl(fd(), KVM_SET_SREGS, &registers) < 0) {
    return absl::ErrnoToStatus(
        errno,
        absl::StrFormat("KVM_SET_SREGS of vCPU %u (cr0 %#x, cr3 %#x, cr4 %#x, efer %#x)", index_,
                        registers.cr0, registers.cr3, registers.cr4, registers.efer));
  }
  return absl::OkStatus();
}

}  // namespace underfoot
