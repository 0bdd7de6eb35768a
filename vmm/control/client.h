// A client of the control socket.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_CONTROL_CLIENT_H_
#define UNDERFOOT_VMM_CONTROL_CLIENT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/control/http.h"
#include "vmm/control/json.h"

namespace underfoot {

class ControlClient {
 public:
  // Each request uses its own connection. An error: the path is too long.
  static absl::StatusOr<std::unique_ptr<ControlClient>> Make(
      std::string path, std::chrono::milliseconds timeout = std::chrono::seconds(10));
  ~ControlClient() = default;
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  const std::string& path() const { return path_; }

  // Returns the reply, whatever its status. An error only if there is no reply.
  absl::StatusOr<HttpReply> Send(const std::string& method, const std::string& target,
                                 const std::string& body = "");

  // Returns the JSON of a successful reply; otherwise an error with the server's message.
  // DeadlineExceeded: the machine is there and does not answer. ResourceExhausted: it has no
  // connection free. Either may be different a moment later.
  absl::StatusOr<Json> Get(const std::string& target);
  absl::StatusOr<Json> Put(const std::string& target, const Json& body);
  absl::StatusOr<Json> Post(const std::string& target);

  // Reads a stream: `take` is called with each line, without its newline, until it returns false or
  // the machine ends. A line that does not end is an error, so that it cannot fill our memory.
  [[nodiscard]] absl::Status Follow(const std::string& target,
                                    const std::function<bool(std::string_view)>& take);

 private:
  ControlClient(std::string path, std::chrono::milliseconds timeout)
      : path_(std::move(path)), timeout_(timeout) {}

  const std::string path_;
  // The limit for a request; for a stream, until it begins.
  const std::chrono::milliseconds timeout_;
};

// Whether this error says that the machine is there, and may answer the next request.
inline bool MayAnswerLater(const absl::Status& status) {
  return absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_CLIENT_H_
