// The event log as server-sent events: id = the event's number, event = its source, data = its
// JSON. The first event of a stream is "clock": it names the clock of happened_ns, and gives the
// current time of that clock and the time of day. If the log has overwritten events that a slow
// reader has not read, an event "gap" has their number.
//
// Thread safety: one thread at a time.
// After: https://html.spec.whatwg.org/multipage/server-sent-events.html

#ifndef UNDERFOOT_VMM_CONTROL_EVENT_STREAM_H_
#define UNDERFOOT_VMM_CONTROL_EVENT_STREAM_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "vmm/control/target.h"

namespace underfoot {

inline constexpr std::string_view kEventStreamContentType = "text/event-stream";

class EventStream {
 public:
  // `target` must outlive this object. The stream begins with event number `first`.
  EventStream(ControlTarget& target, uint64_t first) : target_(&target), next_(first) {}

  // Returns the events since the last call, up to a limit; empty: none.
  std::string operator()();

 private:
  ControlTarget* target_;
  uint64_t next_;
  bool clock_told_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_EVENT_STREAM_H_
