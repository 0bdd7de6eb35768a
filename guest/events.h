// The event pages (abi::EventPage), as part of workload `mixed`. Each vCPU gives the VMM a page of its
// own, and vCPU 0 the VM-wide one. They lie behind the pages of the drivers, so churn moves them.
//
// A vCPU takes the events of its own page, vCPU 0 also those of the VM-wide page. At the end it closes
// the page, and verifies that as many events have come on each channel as the VMM has sent: a lost
// event or one that came twice is a mismatch. The time of both pages must never go back and never be
// torn.

#ifndef UNDERFOOT_GUEST_EVENTS_H_
#define UNDERFOOT_GUEST_EVENTS_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// `pages`: one for the VM, and one for each vCPU. Each vCPU calls this before the other functions,
// vCPU 0 first. The pages stay unused if the VMM takes none.
void SetUpEvents(Context& context, uint64_t pages);

// Takes what is pending, and looks at the time; never waits.
void EventsRound(Context& context);

// Closes the pages of this vCPU, waits until the VMM has closed them, and verifies the totals.
void FinishEvents(Context& context);

// Whether this vCPU has given the VMM a page.
bool HasEventPage(const Context& context);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_EVENTS_H_
