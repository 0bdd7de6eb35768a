// libmicrohttpd behind a narrow door: descriptors go in, requests come out, replies go back.
//
// It runs in the caller's loop: poll fd() and call Run() whenever it is readable or TimeoutMs() has
// passed. The descriptors that were added are owned by it from then on.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_CONTROL_HTTP_DAEMON_H_
#define UNDERFOOT_VMM_CONTROL_HTTP_DAEMON_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/control/connections.h"
#include "vmm/control/http.h"
#include "vmm/unique_fd.h"

struct MHD_Connection;
struct MHD_Daemon;

namespace underfoot {

class HttpDaemon {
 public:
  using Handler = std::function<HttpReply(const HttpRequest&)>;

  // Tells `connections` of every connection and request; it must outlive the daemon.
  static absl::StatusOr<std::unique_ptr<HttpDaemon>> Make(Handler handler, Connections* connections,
                                                          size_t max_body_bytes,
                                                          unsigned max_connections);
  // Closes every connection.
  ~HttpDaemon();
  HttpDaemon(const HttpDaemon&) = delete;
  HttpDaemon& operator=(const HttpDaemon&) = delete;

  // Takes over a connected stream socket; false when it could not, and the socket is closed.
  [[nodiscard]] bool Add(UniqueFd connection);

  int fd() const { return epoll_fd_; }
  std::optional<int> TimeoutMs() const;  // nothing: no need to call Run until fd() is readable
  void Run();

  // From here on every stream ends after what it has said.
  void EndStreams();

 private:
  struct Callbacks;
  class Stream;

  bool StartStream(MHD_Connection* connection, const HttpReply& reply);

  HttpDaemon(Handler handler, Connections* connections, size_t max_body_bytes);

  const Handler handler_;
  Connections* const connections_;
  const size_t max_body_bytes_;
  MHD_Daemon* daemon_ = nullptr;
  int epoll_fd_ = -1;  // belongs to daemon_
  bool streams_end_ = false;
  std::set<Stream*> streams_;  // belong to daemon_; few, see kMostStreams
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_HTTP_DAEMON_H_
