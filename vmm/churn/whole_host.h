// Churn that moves pages with means of the whole host: compaction, and migration between nodes.
//
// Thread safety: any thread.
// After: Documentation/admin-guide/sysctl/vm.rst (compact_memory), move_pages(2).

#ifndef UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_
#define UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_

#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/churn/outcome.h"

namespace underfoot {

// Declined if no page was moved.
absl::StatusOr<ChurnOutcome> CompactHostMemory();

// Declined if none of the pages is present.
absl::StatusOr<ChurnOutcome> MigrateToAnotherNode(HvaRange range);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_
