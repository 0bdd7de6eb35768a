// One vCPU: its descriptor, its kvm_run page, its registers.
//
// Thread safety: Run and the register calls belong to one thread at a time. RequestExit may be
// called from any thread.

#ifndef UNDERFOOT_VMM_KVM_VCPU_H_
#define UNDERFOOT_VMM_KVM_VCPU_H_

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/kvm/kvm.h"

namespace underfoot {

enum class [[nodiscard]] RunOutcome{
    kExit,         // the reason is in kvm_run
    kInterrupted,  // a signal, or RequestExit
    kMemoryFault,  // the host could not give KVM a page of guest memory (EFAULT, EHWPOISON)
    kFailed,       // any other error, in errno
};

class Vcpu {
 public:
  static absl::StatusOr<Vcpu> Create(const Kvm& kvm, const Vm& vm, unsigned index);

  // Calls KVM_RUN once.
  RunOutcome Run();

  // Makes the current or the next Run return kInterrupted. A running guest needs a signal as well.
  // The request stays in force until AllowEntry.
  void RequestExit();
  void AllowEntry();

  kvm_run& run() const { return *run_; }
  unsigned index() const { return index_; }
  int fd() const { return fd_.get(); }

  absl::StatusOr<kvm_regs> GetRegisters() const;
  absl::StatusOr<kvm_sregs> GetSystemRegisters() const;
  [[nodiscard]] absl::Status SetRegisters(const kvm_regs& registers);
  [[nodiscard]] absl::Status SetSystemRegisters(const kvm_sregs& registers);

 private:
  struct Unmap {
    size_t bytes = 0;
    void operator()(kvm_run* run) const;
  };
  using RunPage = std::unique_ptr<kvm_run, Unmap>;

  Vcpu(UniqueFd fd, RunPage run, unsigned index)
      : fd_(std::move(fd)), run_(std::move(run)), index_(index) {}

  UniqueFd fd_;
  RunPage run_;
  unsigned index_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_VCPU_H_
