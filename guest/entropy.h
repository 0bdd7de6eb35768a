// The virtio entropy device, as part of workload `mixed`: vCPU 0 asks for bytes, and checks that
// they are new each time and that half of all bits are ones.

#ifndef UNDERFOOT_GUEST_ENTROPY_H_
#define UNDERFOOT_GUEST_ENTROPY_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

inline constexpr uint64_t kEntropyPages = 4;  // its rings and its data

// All three are called by vCPU 0 only. Without a device they do nothing.
void SetUpEntropy(Context& context, uint64_t pages);
void EntropyRound(Context& context);
void FinishEntropy(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_ENTROPY_H_
