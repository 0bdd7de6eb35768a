// The event log as server-sent events: id = the event's number, event = its source, data = its
// JSON. Where the log has run away from a slow reader, an event "gap" says how many are missing.
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
  // `target` outlives this. Begins with the event of number `first`.
  EventStream(ControlTarget& target, uint64_t first) : target_(&target), next_(first) {}

  // What has happened since the last call, a bounded part of it; empty: nothing.
  std::string operator()();

 private:
  ControlTarget* target_;
  uint64_t next_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_EVENT_STREAM_H_
