// Reads what the guest reports about itself in the system area while it runs, and writes the words
// that the VMM writes there while the guest runs: `stop` and `visit_epoch`.
//
// Thread safety: any thread; every word is read or written as one atomic access, relaxed unless a
// function says otherwise.

#ifndef UNDERFOOT_VMM_BOOT_GUEST_REPORT_H_
#define UNDERFOOT_VMM_BOOT_GUEST_REPORT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "guest/abi.h"
#include "mmu/base/types.h"
#include "vmm/ram/ram_log.h"

namespace underfoot {

class GuestReports {
 public:
  // `system_area` is the hva of gpa 0. At least abi::kSystemAreaBytes must be mapped there and stay
  // mapped. `log`: where the page of a word that is written here is marked; nullptr: writes are not
  // logged.
  GuestReports(Hva system_area, uint64_t vcpus, RamLog* log = nullptr)
      : system_area_(system_area), vcpus_(vcpus), log_(log) {}

  abi::Report Read(uint64_t vcpu) const;

  // Sums over all vCPUs. `done` counts vCPUs. `verdict` is the first one that is not good. The
  // state, exception_* and first[] are those of the vCPU with that verdict or with the first
  // mismatch.
  abi::Report Total() const;

  void RequestStop() const;

  // If the guest keeps visits (abi::Visit): sets the epoch that it records from now on.
  void SetEpoch(uint64_t epoch) const;
  // The epoch of the last write to the page at `gpa`, which is one that is recorded; 0: never.
  // Acquire: a VisitingPages that follows is not read before it.
  uint32_t WrittenIn(Gpa gpa) const;
  // The pages that the vCPUs are visiting: each may be recorded and not written yet.
  std::vector<Gpa> VisitingPages() const;

  uint64_t vcpus() const { return vcpus_; }

 private:
  void Write(uint64_t gpa, uint64_t word) const;

  Hva system_area_;
  uint64_t vcpus_;
  RamLog* log_;
};

std::string_view Name(abi::Verdict verdict);
std::string_view Name(abi::Workload workload);
// "gfn 0x1234 word 3: expected 0x..., found 0x... (stale)"
std::string Describe(const abi::Mismatch& mismatch);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_GUEST_REPORT_H_
