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

#include "absl/status/statusor.h"
#include "vmm/control/http.h"
#include "vmm/control/json.h"

namespace underfoot {

class ControlClient {
 public:
  // Connects with the first request. Errors: a path that is too long.
  static absl::StatusOr<std::unique_ptr<ControlClient>> Make(
      std::string path, std::chrono::milliseconds timeout = std::chrono::seconds(10));
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  const std::string& path() const { return path_; }

  // The reply as it is, whatever its status; an error only when there is none.
  absl::StatusOr<HttpReply> Send(const std::string& method, const std::string& target,
                                 const std::string& body = "");

  // The JSON of a successful reply; otherwise an error with the message that the server gave.
  absl::StatusOr<Json> Get(const std::string& target);
  absl::StatusOr<Json> Put(const std::string& target, const Json& body);

  // GET of a stream: `take` gets each piece until it says false, or the machine ends.
  [[nodiscard]] absl::Status Follow(const std::string& target,
                                    const std::function<bool(std::string_view)>& take);

 private:
  class Connection;
  ControlClient(std::string path, std::unique_ptr<Connection> connection);

  const std::string path_;
  const std::unique_ptr<Connection> connection_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_CLIENT_H_
