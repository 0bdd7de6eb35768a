// The connections of the control server and when each of them has to be done.
//
// Thread safety: used by the server's thread only.

#ifndef UNDERFOOT_VMM_CONTROL_CONNECTIONS_H_
#define UNDERFOOT_VMM_CONTROL_CONNECTIONS_H_

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>

namespace underfoot {

class Connections {
 public:
  using Clock = std::chrono::steady_clock;

  Connections(std::chrono::milliseconds idle_timeout, std::chrono::milliseconds request_timeout)
      : idle_timeout_(idle_timeout), request_timeout_(request_timeout) {}

  void Opened(int fd);
  // Without effect on a connection that is closed.
  void RequestBegan(int fd);  // or a stream got on
  void RequestEnded(int fd);
  void Closed(int fd) { all_.erase(fd); }

  size_t size() const { return all_.size(); }
  bool AnyInRequest() const;

  // The next moment at which CutOverdue has something to do.
  std::optional<Clock::time_point> NextDeadline() const;
  // Shuts every connection down whose time is over; its owner then sees the end of it and closes.
  void CutOverdue();

 private:
  struct State {
    Clock::time_point deadline;
    bool in_request = false;
    bool cut = false;
  };

  const std::chrono::milliseconds idle_timeout_;
  const std::chrono::milliseconds request_timeout_;
  std::map<int, State> all_;  // by descriptor; a few dozen at most
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_CONNECTIONS_H_
