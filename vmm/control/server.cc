#include "vmm/control/server.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/unique_fd.h"
#include "vmm/control/http_connection.h"
#include "vmm/control/listener.h"
#include "vmm/control/routes.h"
#include "vmm/control/socket_path.h"

namespace underfoot {
namespace {

using Clock = HttpConnection::Clock;

// The pause after accept() has run out of descriptors or memory.
constexpr std::chrono::milliseconds kAcceptPause{100};
// The most refused clients that may still read the reason, besides the served ones. Beyond that the
// one that was refused first is closed.
constexpr size_t kMostRefused = 64;

// The server's thread must not receive signals: they are for the vCPUs and for main.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

// True for our own user and for root. The mode of the socket already requires that, but an operator
// may change the mode.
bool MaySpeakTo(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == geteuid();
}

}  // namespace

class ControlServer::Loop {
 public:
  static absl::StatusOr<std::unique_ptr<Loop>> Make(ControlTarget* target,
                                                    const ControlServerOptions& options);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  const std::string& path() const { return listener_->path(); }

 private:
  Loop(ControlTarget* target, const ControlServerOptions& options)
      : max_connections_(options.max_connections),
        drain_timeout_(options.drain_timeout),
        service_{
            .handler = [target](const HttpRequest& request) { return Answer(*target, request); },
            .max_body_bytes = options.max_body_bytes,
            .idle_timeout = options.idle_timeout,
            .request_timeout = options.request_timeout} {}

  void Serve();
  void Drain();
  // Waits until something can be done, at most until `limit`, and does it. Returns true if the
  // owner requests the end.
  bool Turn(std::optional<Clock::time_point> limit);
  // Accepts while there is room, and refuses the others. If all places are taken and a client of one is
  // gone, or if this turn has accepted connections that it has not read yet, the others wait in the
  // backlog for the next turn instead.
  void AcceptAll(bool clients_gone);
  void Refuse(UniqueFd fd, int status, std::string_view message);

  const unsigned max_connections_;
  const std::chrono::milliseconds drain_timeout_;
  UniqueFd stop_;  // an eventfd; readable once the owner requests the end
  std::unique_ptr<UnixListener> listener_;
  HttpService service_;
  std::vector<std::unique_ptr<HttpConnection>> connections_;
  // The one that was refused first is at the front.
  std::deque<std::unique_ptr<HttpConnection>> refused_;
  Clock::time_point accept_again_ = Clock::time_point::min();
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<ControlServer::Loop>> ControlServer::Loop::Make(
    ControlTarget* target, const ControlServerOptions& options) {
  std::unique_ptr<Loop> loop(new Loop(target, options));
  loop->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->stop_.valid()) {
    return ErrnoStatus(errno, "eventfd of the control server");
  }
  absl::StatusOr<std::unique_ptr<UnixListener>> listener = UnixListener::Bind(options.path);
  if (!listener.ok()) return listener.status();
  loop->listener_ = *std::move(listener);
  const SignalsBlocked blocked;
  if (absl::Status started =
          StartThread(loop->thread_, "the control socket", [raw = loop.get()] { raw->Serve(); });
      !started.ok()) {
    return started;
  }
  pthread_setname_np(loop->thread_.native_handle(), "control");
  return loop;
}

ControlServer::Loop::~Loop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  static_cast<void>(write(stop_.get(), &one, sizeof(one)));  // cannot fail: the eventfd is at 0
  thread_.join();
}

bool ControlServer::Loop::Turn(std::optional<Clock::time_point> limit) {
  const auto no_later = [&limit](Clock::time_point time) {
    limit = std::min(limit.value_or(time), time);
  };
  const bool draining = service_.ends;  // no new connections, and stop_ is no longer polled
  const bool accepts = !draining && Clock::now() >= accept_again_;
  if (!draining && !accepts) no_later(accept_again_);
  std::vector<HttpConnection*> all;
  for (const auto& connection : connections_) all.push_back(connection.get());
  for (const auto& connection : refused_) all.push_back(connection.get());
  std::vector<pollfd> polled = {{draining ? -1 : stop_.get(), POLLIN, 0},
                                {accepts ? listener_->fd() : -1, POLLIN, 0}};
  const size_t first = polled.size();
  for (const HttpConnection* connection : all) {
    polled.push_back({connection->fd(), connection->events(), 0});
    no_later(connection->deadline());
    if (const auto next = connection->NextStep()) no_later(*next);
  }
  int timeout = -1;
  if (limit.has_value()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*limit - Clock::now()).count();
    timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 60000));
  }
  // EINTR is impossible because all signals are blocked. Any other failure counts as a wake-up
  // without a cause.
  if (poll(polled.data(), polled.size(), timeout) < 0) return false;
  // Those whose client is gone come first, because others may need the place or the stream that they
  // hold.
  const size_t served = connections_.size();
  bool clients_gone = false;
  for (const bool gone : {true, false}) {
    for (size_t i = 0; i < all.size(); ++i) {
      const short revents = polled[first + i].revents;
      if (((revents & POLLHUP) != 0) != gone) continue;
      clients_gone |= gone && i < served;
      all[i]->Step(revents);
    }
  }
  const auto closed = [](const auto& connection) { return connection->closed(); };
  std::erase_if(connections_, closed);
  std::erase_if(refused_, closed);
  if ((polled[1].revents & POLLIN) != 0) AcceptAll(clients_gone);
  return polled[0].revents != 0;
}

void ControlServer::Loop::AcceptAll(bool clients_gone) {
  const bool refuses = connections_.size() >= max_connections_ && !clients_gone;
  while (refuses || connections_.size() < max_connections_) {
    UniqueFd fd(accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: the connection stays in the backlog and would wake this
      // thread at once.
      if (errno != EAGAIN) accept_again_ = Clock::now() + kAcceptPause;
      return;
    }
    if (!MaySpeakTo(fd.get())) {
      Refuse(std::move(fd), 403, "this socket answers its own user and root only");
    } else if (connections_.size() >= max_connections_) {
      Refuse(std::move(fd), 503,
             absl::StrFormat("all %u connections are in use; try again", max_connections_));
    } else {
      connections_.push_back(std::make_unique<HttpConnection>(std::move(fd), &service_));
    }
  }
}

void ControlServer::Loop::Refuse(UniqueFd fd, int status, std::string_view message) {
  if (refused_.size() >= kMostRefused) refused_.pop_front();
  refused_.push_back(std::make_unique<HttpConnection>(std::move(fd), &service_));
  refused_.back()->Refuse(status, message);
}

void ControlServer::Loop::Serve() {
  while (!Turn(std::nullopt)) {
  }
  Drain();
}

void ControlServer::Loop::Drain() {
  service_.ends = true;
  const Clock::time_point end = Clock::now() + drain_timeout_;
  const auto in_request = [](const auto& connection) { return connection->in_request(); };
  while (std::any_of(connections_.begin(), connections_.end(), in_request) && Clock::now() < end) {
    Turn(end);
  }
}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(ControlTarget* target,
                                                                    ControlServerOptions options) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(options.path);
  if (!address.ok()) return address.status();
  const absl::Status directory =
      PrepareSocketDirectory(options.path, SocketEnvironment::OfThisProcess());
  if (!directory.ok()) return directory;
  RemoveDeadSockets(DirectoryOf(options.path), SocketEnvironment::OfThisProcess());
  absl::StatusOr<std::unique_ptr<Loop>> loop = Loop::Make(target, options);
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<ControlServer>(new ControlServer(*std::move(loop)));
}

ControlServer::ControlServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
ControlServer::~ControlServer() = default;
const std::string& ControlServer::path() const { return loop_->path(); }

}  // namespace underfoot
