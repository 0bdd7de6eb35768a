#include "vmm/control/http_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/control/routes.h"

namespace underfoot {
namespace {

constexpr size_t kReadBytes = size_t{16} << 10;
// A client that sends too large a body before it reads must still receive the 413. Up to this many
// times the limit is read and dropped; then the connection is closed.
constexpr size_t kDrainFactor = 16;
// A stream keeps its connection. The limit leaves connections free for requests.
constexpr size_t kMostStreams = 8;
// The longest delay of an event, and the interval at which an idle stream sends a sign of life, by
// which the end of a client is noticed.
constexpr std::chrono::milliseconds kStreamTick{20};
constexpr std::chrono::seconds kStreamSilence{2};
constexpr std::string_view kStillHere = ":\n\n";  // a comment line of an event stream
constexpr int kMostTurns = 16;
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

std::string DateLine() {
  const time_t now = time(nullptr);
  tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 64> text{};
  const size_t size =
      strftime(text.data(), text.size(), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &utc);
  return {text.data(), size};
}

std::string HeadOf(const HttpReply& reply, bool close) {
  std::string head =
      absl::StrFormat("HTTP/1.1 %d %s\r\n%sContent-Type: %s\r\nCache-Control: no-store\r\n",
                      reply.status, ReasonPhrase(reply.status), DateLine(), reply.content_type);
  if (!reply.allow.empty()) absl::StrAppendFormat(&head, "Allow: %s\r\n", reply.allow);
  if (close) head += "Connection: close\r\n";
  return head;
}

}  // namespace

HttpConnection::HttpConnection(UniqueFd socket, HttpService* service)
    : socket_(std::move(socket)),
      service_(service),
      reader_(std::make_unique<RequestReader>(service->max_body_bytes)) {
  Prolong(service_->idle_timeout);
}

HttpConnection::~HttpConnection() { EndReply(); }

void HttpConnection::Refuse(int status, std::string_view message) {
  Queue(ErrorReply(status, message), /*head=*/false, /*close=*/true);
  Step(0);
}

short HttpConnection::events() const {
  if (lingering_) return POLLIN;
  if (!out_.empty()) return POLLOUT;
  return stream_ || !in_.empty() ? 0 : POLLIN;  // see NextStep
}

std::optional<HttpConnection::Clock::time_point> HttpConnection::NextStep() const {
  if (!out_.empty() || lingering_) return std::nullopt;
  // A request that arrived together with the previous one only needs its turn. POLLOUT is not used,
  // because the kernel reports it only for more free space than an answer needs.
  if (!stream_) return in_.empty() ? std::nullopt : std::optional(Clock::now());
  return stream_idle_ ? Clock::now() + kStreamTick : Clock::now();
}

void HttpConnection::Step(short revents) {
  if (Clock::now() >= deadline_) {
    Close();
  } else if (lingering_) {
    Linger();
  } else {
    if ((revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      if (stream_ && (revents & (POLLHUP | POLLERR)) != 0) Close();
      if (!closed() && !stream_ && in_.empty() && out_.empty()) Read();
    }
    if (!closed()) Work();
  }
  if (closed()) {
    in_request_ = false;
    EndReply();
  }
}

void HttpConnection::Read() {
  std::array<char, kReadBytes> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got > 0) {
    in_.assign(buffer.data(), static_cast<size_t>(got));
  } else if (got == 0) {
    input_ended_ = true;
  } else if (errno != EAGAIN && errno != EINTR) {
    Close();
  }
}

void HttpConnection::Work() {
  // At most one request, and a part of a stream, for each turn: so one client cannot delay the
  // others.
  int turns = 0;
  while (Flush()) {
    if (stream_) {
      if (++turns > kMostTurns) return;
      AskStream();
      if (stream_ && out_.empty()) return;
    } else if (closing_) {
      return StartLingering();
    } else if (reader_->whole()) {
      FinishRequest();
    } else {
      if (turns > 0 || !TakeRequest()) return;
      ++turns;
    }
  }
}

// Returns true if there is something to send.
bool HttpConnection::TakeRequest() {
  if (service_->ends && !in_request_) {
    Close();
    return false;
  }
  in_.erase(0, reader_->Feed(in_));
  if (input_ended_) reader_->End();
  if (reader_->begun() && !in_request_) {
    in_request_ = true;
    Prolong(service_->request_timeout);
  }
  if (const std::optional<HttpRefusal>& refusal = reader_->refusal()) {
    in_.clear();
    Queue(ErrorReply(refusal->status, refusal->message), /*head=*/false, /*close=*/true);
    return true;
  }
  if (reader_->whole()) {
    Answer();
    return true;
  }
  if (input_ended_) {
    Close();
    return false;
  }
  if (!reader_->wants_continue() || continued_) return false;
  continued_ = true;
  out_ = kContinue;
  return true;
}

void HttpConnection::FinishRequest() {
  in_request_ = false;
  continued_ = false;
  reader_ = std::make_unique<RequestReader>(service_->max_body_bytes);
  Prolong(service_->idle_timeout);
}

void HttpConnection::Answer() {
  HttpReply reply = service_->handler(reader_->request());
  const bool head = reader_->request().method == "HEAD";
  if (!reply.more || head) return Queue(reply, head, !reader_->keep_alive());
  if (service_->streams >= kMostStreams) {
    return Queue(
        ErrorReply(503, absl::StrFormat("all %u streams are in use; end one", kMostStreams)), head,
        !reader_->keep_alive());
  }
  StartStream(std::move(reply));
}

void HttpConnection::Queue(const HttpReply& reply, bool head, bool close) {
  closing_ = close || service_->ends;
  out_ = HeadOf(reply, closing_);
  absl::StrAppendFormat(&out_, "Content-Length: %u\r\n\r\n", reply.body.size());
  if (!head) out_ += reply.body;
  sent_ = 0;
  undelivered_ = reply.undelivered;
}

void HttpConnection::StartStream(HttpReply reply) {
  stream_in_chunks_ = reader_->takes_chunks();
  closing_ = true;  // close after the end of the stream
  out_ = HeadOf(reply, /*close=*/true);
  if (stream_in_chunks_) out_ += "Transfer-Encoding: chunked\r\n";
  out_ += "\r\n";
  in_.clear();
  stream_ = std::move(reply.more);
  ++service_->streams;
  spoke_ = Clock::now();
}

void HttpConnection::AskStream() {
  std::string text = stream_();
  stream_idle_ = text.empty();
  const Clock::time_point now = Clock::now();
  if (text.empty() && now - spoke_ > kStreamSilence) text = kStillHere;
  Prolong(service_->request_timeout);  // the peer has read everything so far
  if (text.empty() && !service_->ends) return;
  spoke_ = now;
  if (text.empty()) {
    EndStream();
    if (stream_in_chunks_) out_ = "0\r\n\r\n";
  } else {
    out_ = stream_in_chunks_ ? absl::StrFormat("%x\r\n%s\r\n", text.size(), text) : text;
  }
}

void HttpConnection::EndStream() {
  if (stream_) --service_->streams;
  stream_ = nullptr;
}

void HttpConnection::EndReply() {
  EndStream();
  if (undelivered_) std::exchange(undelivered_, nullptr)();
}

bool HttpConnection::Flush() {
  while (sent_ < out_.size()) {
    const ssize_t sent =
        send(socket_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) Close();
      return false;
    }
    sent_ += static_cast<size_t>(sent);
    if (stream_) Prolong(service_->request_timeout);
  }
  out_.clear();
  sent_ = 0;
  undelivered_ = nullptr;
  return true;
}

void HttpConnection::StartLingering() {
  in_request_ = false;
  lingering_ = true;
  Prolong(service_->idle_timeout);
  if (shutdown(socket_.get(), SHUT_WR) != 0) return Close();
  Linger();
}

void HttpConnection::Linger() {
  while (true) {
    std::array<char, kReadBytes> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    const ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    dropped_ += got > 0 ? static_cast<size_t>(got) : 0;
    if (got <= 0 || dropped_ > service_->max_body_bytes * kDrainFactor) return Close();
  }
}

}  // namespace underfoot
