// The driver of the virtio console, as part of workload `mixed`. What vCPU 0 writes there comes back as
// its input: the machine has connected both ends. It writes bytes of a pattern, and reads them in
// smaller buffers, until it has all of them again.

#ifndef UNDERFOOT_GUEST_TERMINAL_H_
#define UNDERFOOT_GUEST_TERMINAL_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

inline constexpr uint64_t kTerminalPages = 4;  // one for each queue, and its data

// All three are called by vCPU 0 only. Without a device they do nothing.
void SetUpTerminal(Context& context, uint64_t pages);
// Takes what has come, and writes again when all of it is back; never waits.
void TerminalRound(Context& context);
// Waits until all is back.
void FinishTerminal(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_TERMINAL_H_
