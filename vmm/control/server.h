// The control socket: HTTP/1.1 over a Unix socket, answered from a ControlTarget.
//
// One thread of the server does everything: it accepts connections, checks the user of the peer,
// reads, calls the target, answers, and closes connections that take too long. So a slow call of
// the target delays only other clients, and no locks are needed.
//
// Because a client may be hostile or hung, there are limits: the size of a body, the number of
// connections (a client gets a 503 if each of them has another client), the time until a request line is complete, and the time of
// a whole request, however steadily its bytes arrive. Only this user and root are answered.
//
// Thread safety: Start and the destructor belong to one owner. The destructor ends all connections,
// joins the thread and removes the socket. An answer that is in progress is sent first.

#ifndef UNDERFOOT_VMM_CONTROL_SERVER_H_
#define UNDERFOOT_VMM_CONTROL_SERVER_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "vmm/control/target.h"

namespace underfoot {

struct ControlServerOptions {
  std::string path;  // the path of the socket; its directory is created if it does not exist
  size_t max_body_bytes = size_t{64} << 10;
  unsigned max_connections = 32;
  // The time from the start of a connection, or the end of its last request, to the next request
  // line.
  std::chrono::milliseconds idle_timeout{5000};
  // The time from the request line to the last byte of the answer.
  std::chrono::milliseconds request_timeout{10000};
  // How long the destructor waits for answers that are in progress.
  std::chrono::milliseconds drain_timeout{250};
};

class ControlServer {
 public:
  // `target` must outlive the server. Errors: a busy path, a path that is not a socket, a path that
  // is too long, a directory that other users can write to. The message says which, and what to do.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(ControlTarget* target,
                                                              ControlServerOptions options);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  const std::string& path() const;

 private:
  class Loop;
  explicit ControlServer(std::unique_ptr<Loop> loop);

  const std::unique_ptr<Loop> loop_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_SERVER_H_
