// Exceptions. None is expected, so each one ends its vCPU with a report, and ends the waits of the
// other vCPUs.

#include <cstdint>

#include "guest/abi.h"
#include "guest/console.h"
#include "guest/descriptors.h"
#include "guest/end.h"
#include "guest/intrinsics.h"

namespace underfoot::guest {

// The frame that the stubs of start.S and the CPU leave on the ring-0 stack.
struct TrapFrame {
  uint64_t vector;
  uint64_t error;
  uint64_t rip;
  uint64_t cs;
  uint64_t rflags;
  uint64_t rsp;
  uint64_t ss;
};

// The vCPU continues here in ring 3, where output is cheap.
extern "C" [[noreturn]] void ReportException(uint64_t vcpu) {
  abi::Report& report = ReportOf(vcpu);
  Line line(vcpu);
  line << "EXCEPTION vector " << report.exception_vector << " error ";
  line.Hex(report.exception_error) << " rip ";
  line.Hex(report.exception_rip) << " cr2 ";
  line.Hex(report.exception_cr2).Send();
  End(vcpu, abi::Verdict::kException);
}

// Runs in ring 0. Records the exception, and makes ring 3 continue in ReportException. After an
// exception in ring 0 that is impossible, and start.S ends the vCPU.
extern "C" uint64_t OnTrap(TrapFrame* frame) {
  const uint64_t vcpu = (reinterpret_cast<uint64_t>(frame) - abi::kStacksGpa) / abi::kStackBytes;
  uint64_t cr2;
  __asm__ __volatile__("movq %%cr2, %0" : "=r"(cr2));
  abi::Report& report = ReportOf(vcpu);
  Poke(report.exception_vector, frame->vector);
  Poke(report.exception_error, frame->error);
  Poke(report.exception_rip, frame->rip);
  Poke(report.exception_cr2, cr2);
  Poke(report.state, abi::VcpuState::kException);
  Poke(Boot().abort, uint64_t{1});
  frame->rip = reinterpret_cast<uint64_t>(&ReportException);
  frame->rsp = UserStackTop(vcpu) - 8;
  return vcpu;
}

}  // namespace underfoot::guest
