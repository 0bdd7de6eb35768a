// Finds out, from the page tables before and after an operation, whether it removed a translation
// that the kernel notifier must report.
//
// The kernel reports some calls in any case (a discard, a move of a mapping). It reports others
// only if pages were present: reclaim, a change of protection, a collapse.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CHURN_PAGE_EVIDENCE_H_
#define UNDERFOOT_VMM_CHURN_PAGE_EVIDENCE_H_

#include <vector>

#include "mmu/base/types.h"
#include "vmm/config/churn_kind.h"
#include "vmm/ram/pagemap.h"

namespace underfoot {

class PageEvidence {
 public:
  // Must be constructed before the operation.
  PageEvidence(const Pagemap& pagemap, ChurnKind kind, HvaRange range);

  // Called after an operation that was done. False also if that cannot be found out.
  [[nodiscard]] bool KernelHasToReport() const;

 private:
  std::vector<PagemapEntry> Look() const;

  const Pagemap& pagemap_;
  const ChurnKind kind_;
  const HvaRange range_;
  const std::vector<PagemapEntry> before_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_PAGE_EVIDENCE_H_
