// /dev/kvm and one virtual machine, as owned descriptors. Errors name the ioctl, its argument and
// the remedy. This file contains no policy: the caller decides which memory a slot maps, and when.
//
//   Kvm  --CreateVm-->  Vm  --Vcpu::Create(kvm, vm, index)-->  Vcpu (vcpu.h)
//
// Thread safety: any thread. The kernel serializes the memslot calls of a Vm.

#ifndef UNDERFOOT_VMM_KVM_KVM_H_
#define UNDERFOOT_VMM_KVM_KVM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

inline constexpr char kKvmPath[] = "/dev/kvm";

// The argument of KVM_SET_USER_MEMORY_REGION. gpa, bytes and hva are page aligned.
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
  // Creates the slot, or changes the flags or the gpa of the slot with this id. For another hva or
  // size the kernel returns EINVAL: delete the slot first.
  [[nodiscard]] absl::Status SetMemslot(const KvmMemslot& slot);

  // After the return, guest accesses to the range are MMIO exits. Deleting an absent slot is an
  // error.
  [[nodiscard]] absl::Status DeleteMemslot(uint32_t id);

  // From now on a 4-byte write of `value` to `gpa` by a vCPU increments the eventfd inside the kernel
  // and is no exit. It ends with the VM.
  [[nodiscard]] absl::Status AddIoeventfd(Gpa gpa, uint32_t value, int eventfd);
  // The interrupt controllers of a PC inside the kernel: a local APIC for each vCPU that is created
  // afterwards, and one I/O APIC whose pins are the global system interrupts. HLT is then no exit, and
  // all vCPUs but the first wait for INIT and SIPI. `reserved`: four pages where no memslot will be.
  [[nodiscard]] absl::Status CreateInterruptControllers(Gpa reserved, unsigned pins);
  // From now on each increment of the eventfd is an edge of the interrupt. It ends with the VM.
  [[nodiscard]] absl::Status AddIrqfd(int eventfd, uint32_t gsi);
  [[nodiscard]] absl::Status SetInterruptLine(uint32_t gsi, bool high);
  // The pages of a slot with log_dirty that vCPUs have written since the last call: one bit for
  // each of the `pages` of the slot, the lowest bit of a word first. The next write to such a page
  // is logged again. If it fails, KVM's log has lost nothing.
  [[nodiscard]] absl::StatusOr<std::vector<uint64_t>> TakeDirtyLog(uint32_t id, uint64_t pages);
  // True: a page is cleared in KVM's log by a call of its own (KVM_CLEAR_DIRTY_LOG, Linux 5.2).
  // False: the call that reads the log clears it.
  bool clears_dirty_log_apart() const { return clears_dirty_log_apart_; }

  int fd() const { return fd_.get(); }

 private:
  friend class Kvm;
  explicit Vm(UniqueFd fd);

  UniqueFd fd_;
  bool clears_dirty_log_apart_ = false;
};

class Kvm {
 public:
  // FailedPrecondition or PermissionDenied, with the remedy, when this machine has no usable KVM.
  static absl::StatusOr<Kvm> Open(const std::string& path = kKvmPath);

  absl::StatusOr<Vm> CreateVm() const;

  // KVM_CHECK_EXTENSION: 0 means no; a larger result means yes, and for some capabilities is a
  // number.
  int CheckExtension(int capability) const;

  size_t run_bytes() const { return run_bytes_; }
  int fd() const { return fd_.get(); }

 private:
  Kvm(UniqueFd fd, size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  UniqueFd fd_;
  size_t run_bytes_;
};

// The vendor module of this machine's KVM according to /sys/module: "kvm_intel", "kvm_amd",
// "kvm_pvm", or "unknown".
std::string KvmVendor(const std::string& sys_module = "/sys/module");

// Why a KVM of this vendor cannot run a stock Linux kernel; empty: it can, as far as is known.
std::string WhyNoLinuxOn(const std::string& vendor);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_KVM_H_
