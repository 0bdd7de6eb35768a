// The CPUID leaves that KVM supports on this host.
//
// KVM executes CPUID for each leaf, which exits to the outer hypervisor if this host is a guest
// itself. To read the table takes as long as to create a vCPU, so a thread reads it while its owner
// creates the rest of the machine.
//
// Thread safety: one thread, the owner's.

#ifndef UNDERFOOT_VMM_KVM_HOST_CPUID_H_
#define UNDERFOOT_VMM_KVM_HOST_CPUID_H_

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/kvm/kvm.h"

namespace underfoot {

// kvm_cpuid2 with the layout that the kernel uses. If the header is compiled as C++, the flexible
// array of its struct is at an offset 4 bytes too large and the struct is 12 bytes long, which
// changes even the number of the ioctl.
struct CpuidTable {
  static constexpr uint32_t kMaxEntries = 256;
  uint32_t count = kMaxEntries;
  uint32_t padding = 0;
  kvm_cpuid_entry2 entries[kMaxEntries] = {};
};

class HostCpuid {
 public:
  // Starts to read the table. `kvm` must outlive this object.
  explicit HostCpuid(const Kvm& kvm);
  ~HostCpuid();
  HostCpuid(const HostCpuid&) = delete;
  HostCpuid& operator=(const HostCpuid&) = delete;

  // Waits until the table has been read. The result lives as long as this object.
  absl::StatusOr<const CpuidTable*> Get();

 private:
  void Read();

  const Kvm& kvm_;
  std::unique_ptr<CpuidTable> table_ = std::make_unique<CpuidTable>();
  absl::Status status_;
  std::thread reader_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_HOST_CPUID_H_
