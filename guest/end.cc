#include "guest/end.h"

#include "guest/intrinsics.h"

namespace underfoot::guest {

void End(uint64_t vcpu, abi::Verdict verdict) {
  abi::Report& report = ReportOf(vcpu);
  Poke(report.verdict, verdict);
  if (verdict != abi::Verdict::kException) Poke(report.state, abi::VcpuState::kDone);
  Poke(report.done, uint64_t{1});
  Out32(abi::kExitPort, static_cast<uint32_t>(verdict));
  for (;;) __asm__ __volatile__("int3" : : : "memory");  // ring 0 halts the vCPU; see start.S
}

}  // namespace underfoot::guest
