#include "vmm/control/server.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/control/connections.h"
#include "vmm/control/http_daemon.h"
#include "vmm/control/listener.h"
#include "vmm/control/routes.h"
#include "vmm/control/socket_path.h"
#include "vmm/unique_fd.h"

namespace underfoot {
namespace {

using Clock = Connections::Clock;

// How long nothing is accepted after accept() ran out of descriptors or memory.
constexpr std::chrono::milliseconds kAcceptPause{100};

// A thread of ours takes no signal: those are for the vCPUs and for main.
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

// Our own credentials or root's; the socket's mode says the same, and an operator may widen that.
bool MaySpeakTo(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == geteuid();
}

// Answers without reading a request, and hangs up when `fd` goes. One send that never blocks: who
// does not take it has lost it.
void Refuse(const UniqueFd& fd, int status, std::string_view reason, std::string_view message) {
  const std::string body = ErrorReply(status, message).body;
  const std::string reply = absl::StrFormat(
      "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %u\r\n"
      "Connection: close\r\n\r\n%s",
      status, reason, body.size(), body);
  static_cast<void>(send(fd.get(), reply.data(), reply.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
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
  explicit Loop(const ControlServerOptions& options)
      : max_connections_(options.max_connections),
        drain_timeout_(options.drain_timeout),
        connections_(options.idle_timeout, options.request_timeout) {}

  void Serve();
  void Drain();
  // Waits for anything to do, at most until `limit`; true when the owner wants the end.
  bool Wait(std::optional<Clock::time_point> limit);
  void AcceptAll();

  const unsigned max_connections_;
  const std::chrono::milliseconds drain_timeout_;
  UniqueFd stop_;  // an eventfd, readable from the moment the owner wants the end
  std::unique_ptr<UnixListener> listener_;
  Connections connections_;
  std::unique_ptr<HttpDaemon> daemon_;
  bool draining_ = false;  // no new connections; stop_ stays readable and has nothing more to say
  Clock::time_point accept_again_ = Clock::time_point::min();
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<ControlServer::Loop>> ControlServer::Loop::Make(
    ControlTarget* target, const ControlServerOptions& options) {
  std::unique_ptr<Loop> loop(new Loop(options));
  loop->stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->stop_.valid()) {
    return absl::UnavailableError(absl::StrFormat("eventfd: %s", std::strerror(errno)));
  }
  absl::StatusOr<std::unique_ptr<HttpDaemon>> daemon =
      HttpDaemon::Make([target](const HttpRequest& request) { return Answer(*target, request); },
                       &loop->connections_, options.max_body_bytes, options.max_connections);
  if (!daemon.ok()) return daemon.status();
  loop->daemon_ = *std::move(daemon);
  absl::StatusOr<std::unique_ptr<UnixListener>> listener = UnixListener::Bind(options.path);
  if (!listener.ok()) return listener.status();
  loop->listener_ = *std::move(listener);
  const SignalsBlocked blocked;
  loop->thread_ = std::thread([raw = loop.get()] { raw->Serve(); });
  pthread_setname_np(loop->thread_.native_handle(), "control");
  return loop;
}

ControlServer::Loop::~Loop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  static_cast<void>(write(stop_.get(), &one, sizeof(one)));  // an eventfd at 0 always takes it
  thread_.join();
}

bool ControlServer::Loop::Wait(std::optional<Clock::time_point> limit) {
  const Clock::time_point now = Clock::now();
  const bool accepts = !draining_ && now >= accept_again_;
  if (!draining_ && !accepts) limit = std::min(limit.value_or(accept_again_), accept_again_);
  if (const auto deadline = connections_.NextDeadline()) {
    limit = std::min(limit.value_or(*deadline), *deadline);
  }
  int timeout = daemon_->TimeoutMs().value_or(-1);
  if (limit.has_value()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*limit - now).count();
    const int until_limit = static_cast<int>(std::clamp<int64_t>(left, 0, 60000));
    timeout = timeout < 0 ? until_limit : std::min(timeout, until_limit);
  }
  std::array<pollfd, 3> polled = {{{draining_ ? -1 : stop_.get(), POLLIN, 0},
                                   {daemon_->fd(), POLLIN, 0},
                                   {accepts ? listener_->fd() : -1, POLLIN, 0}}};
  // EINTR cannot be, all signals are blocked; any other failure is a wake-up for nothing.
  if (poll(polled.data(), polled.size(), timeout) <= 0) return false;
  if ((polled[2].revents & POLLIN) != 0) AcceptAll();
  return polled[0].revents != 0;
}

void ControlServer::Loop::AcceptAll() {
  while (true) {
    UniqueFd fd(accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: the connection stays in the backlog and would wake us at
      // once.
      if (errno != EAGAIN) accept_again_ = Clock::now() + kAcceptPause;
      return;
    }
    if (!MaySpeakTo(fd.get())) {
      Refuse(fd, 403, "Forbidden", "this socket answers its own user and root only");
    } else if (connections_.size() >= max_connections_) {
      Refuse(fd, 503, "Service Unavailable",
             absl::StrFormat("all %u connections are in use; try again", max_connections_));
    } else {
      static_cast<void>(
          daemon_->Add(std::move(fd)));  // on failure it is closed: the client sees it
    }
  }
}

void ControlServer::Loop::Serve() {
  bool stop = false;
  while (!stop) {
    stop = Wait(std::nullopt);
    daemon_->Run();
    connections_.CutOverdue();
  }
  Drain();
}

void ControlServer::Loop::Drain() {
  draining_ = true;
  daemon_->EndStreams();
  const Clock::time_point end = Clock::now() + drain_timeout_;
  while (connections_.AnyInRequest() && Clock::now() < end) {
    Wait(end);
    daemon_->Run();
    connections_.CutOverdue();
  }
}

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(ControlTarget* target,
                                                                    ControlServerOptions options) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(options.path);
  if (!address.ok()) return address.status();
  const absl::Status directory =
      PrepareSocketDirectory(options.path, SocketEnvironment::OfThisProcess());
  if (!directory.ok()) return directory;
  absl::StatusOr<std::unique_ptr<Loop>> loop = Loop::Make(target, options);
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<ControlServer>(new ControlServer(*std::move(loop)));
}

ControlServer::ControlServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
ControlServer::~ControlServer() = default;
const std::string& ControlServer::path() const { return loop_->path(); }

}  // namespace underfoot
