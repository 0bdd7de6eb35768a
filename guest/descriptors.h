// Descriptor tables: one GDT and one IDT for all vCPUs, a task state segment for each.
//
//   0x08 ring-0 code   0x10 ring-0 data   0x18 ring-3 code   0x20 ring-3 data   0x28.. TSS
//
// Ring 3 may access the ports by the I/O bitmap of its TSS and not by IOPL, which some hosts do not
// preserve. The tables are computed at compile time, except the descriptor of a TSS.

#ifndef UNDERFOOT_GUEST_DESCRIPTORS_H_
#define UNDERFOOT_GUEST_DESCRIPTORS_H_

#include <cstdint>

#include "guest/abi.h"

namespace underfoot::guest {

inline constexpr uint64_t kTrapStubsGpa = 0x200000;  // link.ld places the stubs there
inline constexpr uint64_t kTrapStubBytes = 16;
inline constexpr uint64_t kVectors = 32;

// The upper end of each stack is used by ring 0, the rest by ring 3. start.S contains the same
// number.
inline constexpr uint64_t kKernelStackBytes = 0x2000;
constexpr uint64_t UserStackTop(uint64_t vcpu) { return abi::StackTop(vcpu) - kKernelStackBytes; }

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_DESCRIPTORS_H_
