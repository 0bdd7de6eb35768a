// How an operation of churn came out.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_CHURN_OUTCOME_H_
#define UNDERFOOT_VMM_CHURN_OUTCOME_H_

#include <cstdint>

namespace underfoot {

enum class [[nodiscard]] ChurnOutcome : uint8_t{
    kDone,
    kDeclined,  // the host had a reason not to do it just now; nothing has changed
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_OUTCOME_H_
