#include "vmm/control/event_stream.h"

#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

constexpr size_t kMostAtOnce = 256;

}  // namespace

std::string EventStream::operator()() {
  std::string text;
  if (!std::exchange(clock_told_, true)) {
    const Json clock = Json::object({{"clock", "CLOCK_MONOTONIC"},
                                     {"now_ns", MonotonicNs()},
                                     {"unix_ns", absl::ToUnixNanos(absl::Now())}});
    absl::StrAppendFormat(&text, "event: clock\ndata: %s\n\n", Dump(clock));
  }
  for (const EventInfo& info : target_->GetEvents(next_, kMostAtOnce)) {
    const NumberedEvent& event = info.event;
    if (event.number > next_) {
      absl::StrAppendFormat(&text, "event: gap\ndata: {\"lost\":%u}\n\n", event.number - next_);
    }
    next_ = event.number + 1;
    absl::StrAppendFormat(&text, "id: %u\nevent: %s\ndata: %s\n\n", event.number,
                          EventSourceName(event.event.source), Dump(ToJson(info)));
  }
  return text;
}

}  // namespace underfoot
