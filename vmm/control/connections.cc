#include "vmm/control/connections.h"

#include <sys/socket.h>

#include <algorithm>

namespace underfoot {

void Connections::Opened(int fd) {
  all_[fd] = {.deadline = Clock::now() + idle_timeout_, .in_request = false, .cut = false};
}

void Connections::RequestBegan(int fd) {
  const auto found = all_.find(fd);
  if (found == all_.end()) return;
  found->second.deadline = Clock::now() + request_timeout_;
  found->second.in_request = true;
}

void Connections::RequestEnded(int fd) {
  const auto found = all_.find(fd);
  if (found == all_.end()) return;
  found->second.deadline = Clock::now() + idle_timeout_;
  found->second.in_request = false;
}

bool Connections::AnyInRequest() const {
  return std::any_of(all_.begin(), all_.end(),
                     [](const auto& entry) { return entry.second.in_request; });
}

std::optional<Connections::Clock::time_point> Connections::NextDeadline() const {
  std::optional<Clock::time_point> next;
  for (const auto& [fd, state] : all_) {
    if (!state.cut && (!next.has_value() || state.deadline < *next)) next = state.deadline;
  }
  return next;
}

void Connections::CutOverdue() {
  const Clock::time_point now = Clock::now();
  for (auto& [fd, state] : all_) {
    if (state.cut || state.deadline > now) continue;
    state.cut = true;
    // Fails only when the peer is gone already, which is what was wanted.
    static_cast<void>(shutdown(fd, SHUT_RDWR));
  }
}

}  // namespace underfoot
