// The outcome of an operation of churn.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_CHURN_OUTCOME_H_
#define UNDERFOOT_VMM_CHURN_OUTCOME_H_

#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot {

enum class [[nodiscard]] ChurnOutcome : uint8_t{
    kDone,
    kDeclined,      // the host could not do it at this moment; nothing has changed
    kNothingThere,  // done, but no page was there that it could change
};

// The memory that an operation acted on, and its outcome.
struct ChurnResult {
  Gpa gpa;
  uint64_t bytes = 0;
  ChurnOutcome outcome = ChurnOutcome::kDone;

  friend bool operator==(const ChurnResult&, const ChurnResult&) = default;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OUTCOME_H_
