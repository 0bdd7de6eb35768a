// The CPUID leaves of the guests, and how KVM is asked for and given such leaves.
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_KVM_CPUID_H_
#define UNDERFOOT_VMM_KVM_CPUID_H_

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

namespace underfoot {

// KVM_GET_SUPPORTED_CPUID. KVM executes CPUID for each leaf. If this host is a guest itself, each of
// these exits to its hypervisor, and the call is slow.
absl::StatusOr<std::vector<kvm_cpuid_entry2>> SupportedCpuid(const Kvm& kvm);

// KVM_SET_CPUID2, before the vCPU runs.
[[nodiscard]] absl::Status SetCpuid(const Vcpu& vcpu, std::span<const kvm_cpuid_entry2> leaves);

// For the test guest, which uses no more of a processor than long mode and the addresses of
// guest/abi.h. Every KVM supports that. KVM_SET_CPUID2 with these few leaves is shorter than with
// all that are supported.
std::vector<kvm_cpuid_entry2> LongModeCpuid();

struct PcCpu {
  uint32_t apic_id = 0;
  uint32_t vcpus = 1;
  bool tsc_deadline = false;  // KVM's local APIC has the TSC-deadline timer
};

// What KVM supports, changed where it describes the host's processor and not the guest's: the number
// of this vCPU and of all, one socket without hyper-threads. Bit "hypervisor" is set; without it Linux
// looks for no kvmclock, and calibrates its timers against hardware that is not there.
std::vector<kvm_cpuid_entry2> PcCpuid(std::vector<kvm_cpuid_entry2> supported, const PcCpu& cpu);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_CPUID_H_
