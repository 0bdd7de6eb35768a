// Churn by KSM: equal pages are merged into one read-only page and separated again.
//
// Thread safety: any thread, outside of read sections.
// After: Documentation/admin-guide/mm/ksm.rst.

#ifndef UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_
#define UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_

#include <functional>

#include "absl/status/statusor.h"
#include "vmm/churn/outcome.h"

namespace underfoot {

// Lets KSM scan `range` in two full scans, which it needs to merge, and then unmerges the pages.
// `range` may have any content. Declined if the scans do not end in time, or if `stop` returns
// true. Merged pages are separated in any case.
absl::StatusOr<ChurnOutcome> MergePages(HvaRange range, const std::function<bool()>& stop);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_
