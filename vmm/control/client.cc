#include "vmm/control/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/control/http_parse.h"
#include "vmm/control/probe.h"
#include "vmm/control/socket_path.h"

namespace underfoot {
namespace {

using Clock = std::chrono::steady_clock;
using Deadline = std::optional<Clock::time_point>;  // nullopt: no time limit

// Far above the size of any answer; the limit keeps another program's socket from filling our
// memory.
constexpr size_t kMaxReplyBytes = size_t{16} << 20;
constexpr size_t kMaxLineBytes = size_t{64} << 10;

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 413:
    case 415:
    case 417:
    case 431:
      return absl::StatusCode::kInvalidArgument;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 409:
      return absl::StatusCode::kFailedPrecondition;
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 503:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kUnknown;
  }
}

// The status with the message of {"error": {"message": ...}}, or with the HTTP status alone.
absl::Status StatusOf(const HttpReply& reply) {
  std::string message = absl::StrFormat("HTTP status %d", reply.status);
  const Json json = ParseJson(reply.body);
  if (json.is_object() && json.contains("error") && json["error"].is_object() &&
      json["error"].contains("message") && json["error"]["message"].is_string()) {
    message = json["error"]["message"].get<std::string>();
  }
  return {CodeOf(reply.status), message};
}

absl::StatusOr<Json> JsonOf(const absl::StatusOr<HttpReply>& reply, const std::string& path) {
  if (!reply.ok()) return reply.status();
  if (reply->status < 200 || reply->status > 299) return StatusOf(*reply);
  Json json = ParseJson(reply->body);
  if (json.is_discarded()) {
    return absl::InternalError(absl::StrFormat(
        "the program that answers at %s sent no JSON; is it an underfoot machine?", path));
  }
  return json;
}

// The reason why no machine could be reached at `path`.
std::string UnreachableReason(const std::string& path) {
  switch (ProbeSocket(path)) {
    case SocketProbe::kAbsent:
      return "there is no such socket";
    case SocketProbe::kNotSocket:
      return "that is not a socket";
    case SocketProbe::kUnknown:
      return "this user may not reach it";
    case SocketProbe::kStale:
    case SocketProbe::kLive:  // a server has started just now
      return "no program answers there";
  }
  return "";
}

absl::Status TimedOut(const std::string& path, std::chrono::milliseconds timeout) {
  return absl::DeadlineExceededError(
      absl::StrFormat("no answer from %s within %d ms; the machine, or its host, may be stopped",
                      path, timeout.count()));
}

absl::Status NoAnswer(const std::string& path, std::string_view why) {
  return absl::UnavailableError(absl::StrFormat("no answer from %s: %s", path, why));
}

// One request over one connection.
class Exchange {
 public:
  // Connects. `timeout` limits the whole exchange, or the time until ExpectStream.
  static absl::StatusOr<Exchange> Start(const std::string& path,
                                        std::chrono::milliseconds timeout) {
    const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
    if (!address.ok()) return address.status();
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return NoAnswer(path, ErrnoText(errno));
    // connect() to a full backlog waits for this long.
    const timeval patience = {timeout.count() / 1000, timeout.count() % 1000 * 1000};
    static_cast<void>(
        setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)));
    if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) !=
        0) {
      if (errno == EAGAIN) return TimedOut(path, timeout);  // its backlog is full
      return NoAnswer(path,
                      absl::StrCat(UnreachableReason(path), "; is the machine still running?"));
    }
    return Exchange(path, std::move(socket), timeout);
  }

  void DropDeadline() { deadline_ = std::nullopt; }

  // A server that refuses a request may close the connection before it has read all of it. Its
  // answer can still be read.
  absl::Status Send(std::string_view bytes) {
    while (!bytes.empty()) {
      if (!Await(POLLOUT)) return TimedOut(path_, timeout_);
      const ssize_t sent =
          send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno != EAGAIN && errno != EINTR) return absl::OkStatus();
      if (sent > 0) bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return absl::OkStatus();
  }

  // Reads until the reply is complete or its reader stops.
  absl::Status Receive(ReplyReader& reader) {
    std::array<char, size_t{64} << 10> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    while (!reader.whole() && !reader.stopped()) {
      if (!Await(POLLIN)) return TimedOut(path_, timeout_);
      const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (got <= 0) {
        if (reader.End()) return absl::OkStatus();
        return NoAnswer(path_, reader.has_head() ? "the connection ended within the answer"
                                                 : "the connection ended without an answer");
      }
      if (!reader.Feed({buffer.data(), static_cast<size_t>(got)})) {
        return NoAnswer(path_,
                        absl::StrCat("the program that answers there is not an HTTP server (",
                                     reader.error(), ")"));
      }
      if (reader.has_head() && streams_) DropDeadline();
    }
    return absl::OkStatus();
  }

  // From now on there is no time limit.
  void ExpectStream() { streams_ = true; }

 private:
  Exchange(std::string path, UniqueFd socket, std::chrono::milliseconds timeout)
      : path_(std::move(path)),
        socket_(std::move(socket)),
        timeout_(timeout),
        deadline_(Clock::now() + timeout) {}

  // False: the time limit has passed.
  [[nodiscard]] bool Await(short events) {
    pollfd polled = {socket_.get(), events, 0};
    while (true) {
      int left = -1;
      if (deadline_.has_value()) {
        const auto ms = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now());
        left = static_cast<int>(std::clamp<int64_t>(ms.count(), 0, INT32_MAX));
      }
      const int ready = poll(&polled, 1, left);
      if (ready != 0 && !(ready < 0 && errno == EINTR)) return true;
      if (ready == 0) return false;
    }
  }

  std::string path_;
  UniqueFd socket_;
  std::chrono::milliseconds timeout_;
  Deadline deadline_;
  bool streams_ = false;
};

std::string RequestText(const std::string& method, const std::string& target,
                        const std::string& body) {
  std::string text =
      absl::StrFormat("%s %s HTTP/1.1\r\nHost: underfoot\r\nConnection: close\r\n", method, target);
  if (method == "PUT" || method == "POST" || !body.empty()) {
    absl::StrAppendFormat(&text, "Content-Type: %s\r\nContent-Length: %u\r\n", kJsonContentType,
                          body.size());
  }
  return text + "\r\n" + body;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Make(
    std::string path, std::chrono::milliseconds timeout) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return address.status();
  return std::unique_ptr<ControlClient>(new ControlClient(std::move(path), timeout));
}

absl::StatusOr<HttpReply> ControlClient::Send(const std::string& method, const std::string& target,
                                              const std::string& body) {
  absl::StatusOr<Exchange> exchange = Exchange::Start(path_, timeout_);
  if (!exchange.ok()) return exchange.status();
  HttpReply reply;
  ReplyReader reader(method == "HEAD", [&](int, std::string_view piece) {
    reply.body += piece;
    return reply.body.size() <= kMaxReplyBytes;
  });
  if (absl::Status sent = exchange->Send(RequestText(method, target, body)); !sent.ok()) {
    return sent;
  }
  if (absl::Status received = exchange->Receive(reader); !received.ok()) return received;
  if (reader.stopped()) {
    return absl::InternalError(absl::StrFormat(
        "the program that answers at %s sent more than %u bytes; is it an underfoot machine?",
        path_, kMaxReplyBytes));
  }
  reply.status = reader.status();
  reply.content_type = reader.content_type();
  return reply;
}

absl::StatusOr<Json> ControlClient::Get(const std::string& target) {
  return JsonOf(Send("GET", target), path_);
}

absl::StatusOr<Json> ControlClient::Put(const std::string& target, const Json& body) {
  return JsonOf(Send("PUT", target, Dump(body)), path_);
}

absl::StatusOr<Json> ControlClient::Post(const std::string& target) {
  return JsonOf(Send("POST", target), path_);
}

absl::Status ControlClient::Follow(const std::string& target,
                                   const std::function<bool(std::string_view)>& take) {
  absl::StatusOr<Exchange> exchange = Exchange::Start(path_, timeout_);
  if (!exchange.ok()) return exchange.status();
  exchange->ExpectStream();
  std::string rest;  // the incomplete last line; for an error, the body so far
  bool enough = false;
  ReplyReader reader(/*head=*/false, [&](int status, std::string_view piece) {
    rest += piece;
    if (status != 200) return rest.size() <= kMaxLineBytes;
    size_t begin = 0;
    for (size_t end; (end = rest.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line = std::string_view(rest).substr(begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      enough = !take(line);
      if (enough) return false;
    }
    rest.erase(0, begin);
    return rest.size() <= kMaxLineBytes;
  });
  if (absl::Status sent = exchange->Send(RequestText("GET", target, "")); !sent.ok()) return sent;
  if (absl::Status received = exchange->Receive(reader); !received.ok()) return received;
  if (enough) return absl::OkStatus();
  if (reader.stopped()) {
    return absl::InternalError(
        absl::StrFormat("the program that answers at %s sent a line of more than %u bytes; is it "
                        "an underfoot machine?",
                        path_, kMaxLineBytes));
  }
  if (reader.status() == 200) return absl::OkStatus();
  return StatusOf({.status = reader.status(), .body = std::move(rest)});
}

}  // namespace underfoot
