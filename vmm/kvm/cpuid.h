// The CPUID leaves of a guest that is an operating system.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_KVM_CPUID_H_
#define UNDERFOOT_VMM_KVM_CPUID_H_

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

namespace underfoot {

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
