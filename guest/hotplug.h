// The driver of the memory device (virtio-mem), as part of workload `mixed`. vCPU 0 plugs as many blocks
// as the host asks for, and unplugs what is more than that. Now and then it unplugs some by itself, plugs
// them again, and makes requests that must be refused.
//
// In a block that is plugged it writes stamps over all pages and verifies them, like any other page
// (stamp.h). A block that comes back must be all zeroes: what was in it before is "resurrected".

#ifndef UNDERFOOT_GUEST_HOTPLUG_H_
#define UNDERFOOT_GUEST_HOTPLUG_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

inline constexpr uint64_t kHotplugPages = 1;  // its ring, a request and an answer

// Called by vCPU 0 before any other function. The device stays unused if there is none.
void SetUpHotplug(Context& context, uint64_t pages);

// Takes an answer, and makes the next request or works on a part of a block; never waits.
void HotplugRound(Context& context);

// Waits for the answer, and verifies all blocks.
void FinishHotplug(Context& context);

// Whether the host has asked this vCPU for memory that it has never got.
bool LacksMemory(const Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_HOTPLUG_H_
