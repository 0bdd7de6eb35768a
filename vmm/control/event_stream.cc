#include "vmm/control/event_stream.h"

#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

constexpr size_t kMostAtOnce = 256;

}  // namespace

std::string EventStream::operator()() {
  std::string text;
  for (const NumberedEvent& event : target_->GetEvents(next_, kMostAtOnce)) {
    if (event.number > next_) {
      absl::StrAppendFormat(&text, "event: gap\ndata: {\"lost\":%u}\n\n", event.number - next_);
    }
    next_ = event.number + 1;
    absl::StrAppendFormat(&text, "id: %u\nevent: %s\ndata: %s\n\n", event.number,
                          EventSourceName(event.event.source), Dump(ToJson(event)));
  }
  return text;
}

}  // namespace underfoot
