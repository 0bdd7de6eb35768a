// Churn by fork: a child shares some pages for a while, so that each write to one of them copies it
// and the frame behind the address changes.
//
// Guest RAM is MADV_DONTFORK; the range alone is given to the child.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_CHURN_FORKING_H_
#define UNDERFOOT_VMM_CHURN_FORKING_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/churn/outcome.h"
#include "vmm/memory/mm_hooks.h"

namespace underfoot {

// Returns when the child is gone. Declined when the host has no more processes for us.
absl::StatusOr<ChurnOutcome> ForkWith(MmHooks& hooks, HvaRange range, absl::Duration lifetime);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_FORKING_H_
