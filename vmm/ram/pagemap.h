// What the kernel says about a page of this process: /proc/self/pagemap.
//
// Without CAP_SYS_ADMIN the kernel hides frame numbers; then the hva's page number stands in for
// the pfn, and real_pfns() says so: presence can still be audited, frames cannot.
//
// Thread safety: any thread. What a read returns may be old.
// After: Documentation/admin-guide/mm/pagemap.rst in Linux.

#ifndef UNDERFOOT_VMM_RAM_PAGEMAP_H_
#define UNDERFOOT_VMM_RAM_PAGEMAP_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

struct PagemapEntry {
  bool present = false;
  bool swapped = false;
  bool uffd_wp = false;
  Pfn pfn;  // when present
};

class Pagemap {
 public:
  static absl::StatusOr<Pagemap> Open();

  PagemapEntry Read(Hva page) const;
  // One entry for each page of `range`, which begins at a page. Many at once are cheaper than one
  // by one.
  void Read(HvaRange range, std::span<PagemapEntry> entries) const;
  // Makes the call: the result of ioctl(2), with errno.
  using ScanCall = int (*)(int fd, newer::PagemapScan* scan);
  // The pages of `range` that were written since they came in or were write-protected, where the
  // kernel resolves write-protect faults itself (UffdOptions::async_write_protect): Linux 6.7.
  absl::StatusOr<std::vector<HvaRange>> Written(HvaRange range, ScanCall call = Scan) const;
  bool real_pfns() const { return real_pfns_; }

 private:
  explicit Pagemap(UniqueFd fd) : fd_(std::move(fd)) {}
  static int Scan(int fd, newer::PagemapScan* scan);
  PagemapEntry Parse(uint64_t raw, Hva page) const;

  UniqueFd fd_;
  bool real_pfns_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_PAGEMAP_H_
