// What the guest says of itself in the system area, read while it runs, and the one word that the
// VMM writes there while it runs: stop.
//
// Thread safety: any thread; every word is read or written as one relaxed atomic access.

#ifndef UNDERFOOT_VMM_GUEST_REPORT_H_
#define UNDERFOOT_VMM_GUEST_REPORT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "guest/abi.h"
#include "mmu/types.h"

namespace underfoot {

class GuestReports {
 public:
  // `system_area` is the hva of gpa 0, mapped at least abi::kSystemAreaBytes far, and stays.
  GuestReports(Hva system_area, uint64_t vcpus) : system_area_(system_area), vcpus_(vcpus) {}

  abi::Report Read(uint64_t vcpu) const;

  // Sums over all vCPUs. `done` counts vCPUs; `verdict` is the first that is not good; state,
  // exception_* and first[] are of the vCPU with that verdict or with the first mismatch.
  abi::Report Total() const;

  void RequestStop() const;
  uint64_t vcpus() const { return vcpus_; }

 private:
  Hva system_area_;
  uint64_t vcpus_;
};

std::string_view Name(abi::Verdict verdict);
std::string_view Name(abi::Workload workload);
// "gfn 0x1234 word 3: expected 0x..., found 0x... (stale)"
std::string Describe(const abi::Mismatch& mismatch);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_GUEST_REPORT_H_
