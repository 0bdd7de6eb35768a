// The driver of the virtio balloon, as part of workload `mixed`. vCPU 0 lends whole chunks of its pages
// (stamp.h): to the balloon, as many as the host asks for, up to half of them; and now and then one for
// a moment, by free-page reporting. A page that comes back must be all zeroes, which the rounds of the
// stamps verify like any other page. It also reports statistics of its memory whenever the host wants
// some.

#ifndef UNDERFOOT_GUEST_BALLOON_H_
#define UNDERFOOT_GUEST_BALLOON_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

inline constexpr uint64_t kBalloonPages = 4;  // one for each queue

// Called by vCPU 0 before any other function. The device stays unused if there is none.
void SetUpBalloon(Context& context, uint64_t pages);

// Takes an answer, and makes the next request; never waits.
void BalloonRound(Context& context);

// Waits for the answer, and takes all pages back.
void FinishBalloon(Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_BALLOON_H_
