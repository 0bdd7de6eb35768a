// How an operation of churn came out.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_CHURN_OUTCOME_H_
#define UNDERFOOT_VMM_CHURN_OUTCOME_H_

#include <cstdint>

#include "mmu/types.h"

namespace underfoot {

enum class [[nodiscard]] ChurnOutcome : uint8_t{
    kDone,
    kDeclined,  // the host had a reason not to do it just now; nothing has changed
};

// What an operation was done to and how it came out.
struct ChurnResult {
  Gpa gpa;
  uint64_t bytes = 0;
  ChurnOutcome outcome = ChurnOutcome::kDone;

  friend bool operator==(const ChurnResult&, const ChurnResult&) = default;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OUTCOME_H_
