// A secondary MMU over memory that is always present. It measures the cost of mmu/ itself, without
// that of the host.
//
// Thread safety: as Mmu.

#ifndef UNDERFOOT_TESTS_BENCH_RESIDENT_VM_H_
#define UNDERFOOT_TESTS_BENCH_RESIDENT_VM_H_

#include <cstdint>

#include "mmu/base/types.h"
#include "mmu/mmu.h"
#include "mmu/page_source.h"

namespace underfoot::bench {

// Anonymous memory; hva page numbers stand in for frames.
class ResidentPages final : public PageSource {
 public:
  explicit ResidentPages(uint64_t pages);
  ~ResidentPages() override;
  ResidentPages(const ResidentPages&) = delete;
  ResidentPages& operator=(const ResidentPages&) = delete;

  HvaRange hvas() const { return hvas_; }
  PageInResult PageIn(Hva page, Access access, FaultContext*) override;

 private:
  HvaRange hvas_;
};

class ResidentVm {
 public:
  // One memslot from guest frame 0 on.
  explicit ResidentVm(uint64_t pages);
  ResidentVm(const ResidentVm&) = delete;
  ResidentVm& operator=(const ResidentVm&) = delete;

  Mmu& mmu() { return mmu_; }
  HvaRange PageAt(uint64_t gfn) const { return PageRangeOf(pages_.hvas().begin + gfn * kPageSize); }

 private:
  ResidentPages pages_;
  Mmu mmu_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_RESIDENT_VM_H_
