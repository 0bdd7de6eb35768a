// /dev/kvm and one virtual machine behind it, as owned descriptors with errors that name the ioctl,
// its argument and the remedy. No policy: what memory a slot shows, and when, is the caller's.
//
//   Kvm  --CreateVm-->  Vm  --Vcpu::Create(kvm, vm, index)-->  Vcpu (vcpu.h)
//
// Thread safety: ioctls are; a Vm's memslot calls are serialized by the kernel.

#ifndef UNDERFOOT_VMM_KVM_H_
#define UNDERFOOT_VMM_KVM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "vmm/unique_fd.h"

namespace underfoot {

inline constexpr char kKvmPath[] = "/dev/kvm";

// What a KVM_SET_USER_MEMORY_REGION says. gpa, bytes and hva are page aligned.
struct KvmMemslot {
  uint32_t id = 0;
  Gpa gpa;
  uint64_t bytes = 0;
  Hva hva;
  bool read_only = false;
  bool log_dirty = false;
};

class Vm {
 public:
  // Creates the slot. An existing one of the same id may change only its flags or its gpa; another
  // hva or size is the kernel's EINVAL: delete it first.
  [[nodiscard]] absl::Status SetMemslot(const KvmMemslot& slot);

  // From the return on, guest accesses there are MMIO exits. Deleting an absent slot is an error.
  [[nodiscard]] absl::Status DeleteMemslot(uint32_t id);

  int fd() const { return fd_.get(); }

 private:
  friend class Kvm;
  explicit Vm(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

class Kvm {
 public:
  // FailedPrecondition or PermissionDenied, with the remedy, when this machine has no usable KVM.
  static absl::StatusOr<Kvm> Open(const std::string& path = kKvmPath);

  absl::StatusOr<Vm> CreateVm() const;

  // KVM_CHECK_EXTENSION: 0 is no, more is yes and sometimes a number.
  int CheckExtension(int capability) const;

  size_t run_bytes() const { return run_bytes_; }
  int fd() const { return fd_.get(); }

 private:
  Kvm(UniqueFd fd, size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  UniqueFd fd_;
  size_t run_bytes_;
};

// The vendor module of this machine's KVM as /sys/module tells: "kvm_intel", "kvm_amd", "kvm_pvm",
// or "unknown".
std::string KvmVendor(const std::string& sys_module = "/sys/module");

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_H_
