// Churn by KSM: equal pages are merged into one read-only page and broken apart again.
//
// Thread safety: any thread, outside of read sections.
// After: Documentation/admin-guide/mm/ksm.rst.

#ifndef UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_
#define UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_

#include <functional>

#include "absl/status/statusor.h"
#include "vmm/churn/outcome.h"
#include "vmm/memory/mm_hooks.h"

namespace underfoot {

// Lets KSM have `range` for two of its full scans, which is what it takes to merge, then takes the
// pages out again. `range` may hold anything. Declined when the scans do not end in time, or when
// `stop` says so: whatever was merged is broken apart in any case.
absl::StatusOr<ChurnOutcome> MergePages(MmHooks& hooks, HvaRange range,
                                        const std::function<bool()>& stop);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_PAGE_MERGING_H_
