// The end of a vCPU's run.

#ifndef UNDERFOOT_GUEST_END_H_
#define UNDERFOOT_GUEST_END_H_

#include <cstdint>

#include "guest/abi.h"

namespace underfoot::guest {

inline abi::BootInfo& Boot() { return *reinterpret_cast<abi::BootInfo*>(abi::kBootInfoGpa); }

inline abi::Report& ReportOf(uint64_t vcpu) {
  return *reinterpret_cast<abi::Report*>(abi::ReportGpa(vcpu));
}

// Writes the verdict to the report and to the exit device, and halts.
[[noreturn]] void End(uint64_t vcpu, abi::Verdict verdict);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_END_H_
