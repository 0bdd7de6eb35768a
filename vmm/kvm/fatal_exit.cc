#include "vmm/kvm/fatal_exit.h"

#include <linux/kvm.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

std::string Where(const Vcpu& vcpu) {
  const auto registers = vcpu.GetRegisters();
  const auto system = vcpu.GetSystemRegisters();
  if (!registers.ok() || !system.ok()) return "registers unreadable";
  return absl::StrFormat("rip %#x, rsp %#x, ring %d, cr2 %#x, cr3 %#x", registers->rip,
                         registers->rsp, static_cast<int>(system->cs.dpl), system->cr2,
                         system->cr3);
}

const char* SuberrorName(uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return "the kernel cannot emulate an instruction";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "two exceptions at once";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "an exit while an event was delivered";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "an exit reason unknown to the kernel";
    default:
      return "unknown suberror";
  }
}

std::string DescribeInternalError(const kvm_run& run) {
  const auto& internal = run.internal;
  std::string text = absl::StrFormat("KVM_EXIT_INTERNAL_ERROR, suberror %u (%s)", internal.suberror,
                                     SuberrorName(internal.suberror));
  const auto& failure = run.emulation_failure;
  if (internal.suberror == KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 3 &&
      (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
    absl::StrAppend(&text, ", instruction");
    const size_t size = std::min<size_t>(failure.insn_size, sizeof(failure.insn_bytes));
    for (size_t i = 0; i < size; ++i) absl::StrAppendFormat(&text, " %02x", failure.insn_bytes[i]);
    return text;
  }
  const uint32_t count = std::min<uint32_t>(internal.ndata, 16);
  for (uint32_t i = 0; i < count; ++i) absl::StrAppendFormat(&text, " %#x", internal.data[i]);
  return text;
}

std::string DescribeExit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return "KVM_EXIT_SHUTDOWN (triple fault)";
    case KVM_EXIT_FAIL_ENTRY:
      return absl::StrFormat("KVM_EXIT_FAIL_ENTRY, hardware reason %#x",
                             run.fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
      return DescribeInternalError(run);
    default:
      return absl::StrFormat("exit reason %u, which underfoot does not handle", run.exit_reason);
  }
}

}  // namespace

absl::Status FatalExit(const Vcpu& vcpu) {
  return absl::InternalError(
      absl::StrFormat("vCPU %u: %s at %s", vcpu.index(), DescribeExit(vcpu.run()), Where(vcpu)));
}

absl::Status FatalRunError(const Vcpu& vcpu, int error) {
  return absl::ErrnoToStatus(
      error, absl::StrFormat("KVM_RUN of vCPU %u at %s", vcpu.index(), Where(vcpu)));
}

}  // namespace underfoot
