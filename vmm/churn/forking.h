// Churn by fork: a child process shares some pages for a while. Each write to one of them copies
// the page, so the frame behind the address changes.
//
// Guest RAM is MADV_DONTFORK; only the range is given to the child.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_CHURN_FORKING_H_
#define UNDERFOOT_VMM_CHURN_FORKING_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/churn/outcome.h"

namespace underfoot {

// Returns when the child has ended. Declined if the host cannot start another process.
absl::StatusOr<ChurnOutcome> ForkWith(HvaRange range, absl::Duration lifetime);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_FORKING_H_
