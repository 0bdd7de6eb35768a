// Churn that moves pages by means of the whole host: compaction, and migration between nodes.
//
// Thread safety: any thread.
// After: Documentation/admin-guide/sysctl/vm.rst (compact_memory), move_pages(2).

#ifndef UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_
#define UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_

#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "vmm/churn/outcome.h"

namespace underfoot {

// Declined when there was nothing to move.
absl::StatusOr<ChurnOutcome> CompactHostMemory();

// Declined when none of the pages is there to be moved.
absl::StatusOr<ChurnOutcome> MigrateToAnotherNode(HvaRange range);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_WHOLE_HOST_H_
