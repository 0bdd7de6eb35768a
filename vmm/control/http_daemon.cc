#include "vmm/control/http_daemon.h"

#include <microhttpd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/control/routes.h"

namespace underfoot {
namespace {

// Holds the headers of a request while they are read; longer ones get a 431.
constexpr size_t kConnectionMemory = size_t{32} << 10;
// A body beyond the limit is read and dropped up to this factor, so that a client that sends it all
// before it reads still sees its 413. One that announces more gets the 413 at once, and one that
// just goes on is cut.
constexpr size_t kDrainFactor = 16;
// Streams stay; requests shall find a connection beside them.
constexpr size_t kMostStreams = 8;
// How late a stream may be, and how often one that has nothing to say shows that it lives, which is
// how a client's end is noticed.
constexpr int kStreamTickMs = 20;
constexpr std::chrono::seconds kStreamSilence{2};
constexpr std::string_view kStillHere = ":\n\n";  // a comment, in an event stream

// What is kept of one request between the calls of the library.
struct Pending {
  HttpRequest request;
  size_t body_bytes = 0;  // as announced by what came, also beyond what is kept
};

int SocketOf(MHD_Connection* connection) {
  return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

std::string HeaderOf(MHD_Connection* connection, const char* name) {
  const char* const value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value == nullptr ? "" : value;
}

bool AnnouncesMoreThan(MHD_Connection* connection, size_t limit) {
  const std::string text = HeaderOf(connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
  size_t length = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  return error == std::errc::result_out_of_range || length > limit;
}

MHD_Result CollectQuery(void* cls, MHD_ValueKind, const char* name, const char* value) {
  auto* const request = static_cast<HttpRequest*>(cls);
  request->query.emplace_back(name, value == nullptr ? "" : value);
  return MHD_YES;
}

MHD_Result Queue(MHD_Connection* connection, const HttpReply& reply, MHD_Response* response) {
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply.content_type.c_str());
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (!reply.allow.empty()) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, reply.allow.c_str());
  }
  const MHD_Result queued =
      MHD_queue_response(connection, static_cast<unsigned>(reply.status), response);
  MHD_destroy_response(response);
  return queued;
}

MHD_Result Send(MHD_Connection* connection, const HttpReply& reply) {
  return Queue(connection, reply,
               MHD_create_response_from_buffer(
                   reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_MUST_COPY));
}

HttpReply TooLarge(size_t limit) {
  return ErrorReply(413, absl::StrFormat("the body has more than %u bytes", limit));
}

}  // namespace

// A reply without an end. It is suspended, that is outside of the library's epoll set, while it has
// nothing to say.
class HttpDaemon::Stream {
 public:
  Stream(HttpDaemon& daemon, MHD_Connection* connection, const HttpReply& reply)
      : daemon_(daemon), connection_(connection), more_(reply.more), unsent_(reply.body) {
    daemon_.streams_.insert(this);
  }
  ~Stream() { daemon_.streams_.erase(this); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Resumes it when there is something to say, or when it shall end.
  void Tick() {
    if (!suspended_) return;
    unsent_ = more_();
    const auto now = Connections::Clock::now();
    if (unsent_.empty() && now - spoke_ > kStreamSilence) unsent_ = kStillHere;
    daemon_.connections_->RequestBegan(SocketOf(connection_));
    if (unsent_.empty() && !daemon_.streams_end_) return;
    spoke_ = now;
    suspended_ = false;
    MHD_resume_connection(connection_);
  }

  // The library wants `most` bytes for its buffer.
  static ssize_t Read(void* cls, uint64_t, char* buffer, size_t most) {
    auto& self = *static_cast<Stream*>(cls);
    if (self.unsent_.empty()) self.unsent_ = self.more_();
    if (self.unsent_.empty() && self.daemon_.streams_end_) return MHD_CONTENT_READER_END_OF_STREAM;
    if (self.unsent_.empty()) {
      self.suspended_ = true;
      MHD_suspend_connection(self.connection_);
      return 0;
    }
    self.daemon_.connections_->RequestBegan(SocketOf(self.connection_));
    const size_t bytes = std::min(most, self.unsent_.size());
    self.unsent_.copy(buffer, bytes);
    self.unsent_.erase(0, bytes);
    return static_cast<ssize_t>(bytes);
  }

  static void Free(void* cls) { std::unique_ptr<Stream>(static_cast<Stream*>(cls)).reset(); }

 private:
  HttpDaemon& daemon_;
  MHD_Connection* const connection_;
  const std::function<std::string()> more_;
  std::string unsent_;
  bool suspended_ = false;
  Connections::Clock::time_point spoke_ = Connections::Clock::now();
};

bool HttpDaemon::StartStream(MHD_Connection* connection, const HttpReply& reply) {
  constexpr size_t kBlock = 4096;
  auto stream = std::make_unique<Stream>(*this, connection, reply);
  MHD_Response* const response = MHD_create_response_from_callback(
      MHD_SIZE_UNKNOWN, kBlock, &Stream::Read, stream.get(), &Stream::Free);
  if (response != nullptr) static_cast<void>(stream.release());  // Free takes it back
  return Queue(connection, reply, response) == MHD_YES;
}

// What the library calls. Every function runs within Run(), Add() or the destructor.
struct HttpDaemon::Callbacks {
  static void* RequestLine(void* cls, const char*, MHD_Connection* connection) {
    static_cast<HttpDaemon*>(cls)->connections_->RequestBegan(SocketOf(connection));
    return nullptr;
  }

  static void RequestDone(void* cls, MHD_Connection* connection, void** context,
                          MHD_RequestTerminationCode) {
    const std::unique_ptr<Pending> ended(static_cast<Pending*>(std::exchange(*context, nullptr)));
    static_cast<HttpDaemon*>(cls)->connections_->RequestEnded(SocketOf(connection));
  }

  static void ConnectionChanged(void* cls, MHD_Connection* connection, void**,
                                MHD_ConnectionNotificationCode code) {
    Connections* const connections = static_cast<HttpDaemon*>(cls)->connections_;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
      connections->Opened(SocketOf(connection));
    } else {
      connections->Closed(SocketOf(connection));
    }
  }

  // Called once with the headers, then with each piece of the body, then once at the end of it.
  static MHD_Result Request(void* cls, MHD_Connection* connection, const char* url,
                            const char* method, const char*, const char* data, size_t* size,
                            void** context) {
    HttpDaemon& self = *static_cast<HttpDaemon*>(cls);
    auto* pending = static_cast<Pending*>(*context);
    if (pending == nullptr) {
      pending = std::make_unique<Pending>().release();  // RequestDone takes it back
      *context = pending;
      pending->request.method = method;
      pending->request.path = url;
      pending->request.content_type = HeaderOf(connection, MHD_HTTP_HEADER_CONTENT_TYPE);
      MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, CollectQuery, &pending->request);
      if (!AnnouncesMoreThan(connection, self.max_body_bytes_ * kDrainFactor)) return MHD_YES;
      return Send(connection, TooLarge(self.max_body_bytes_));
    }
    if (*size != 0) {
      pending->body_bytes += *size;
      if (pending->body_bytes > self.max_body_bytes_ * kDrainFactor) return MHD_NO;
      if (pending->body_bytes <= self.max_body_bytes_) pending->request.body.append(data, *size);
      *size = 0;
      return MHD_YES;
    }
    if (pending->body_bytes > self.max_body_bytes_) {
      return Send(connection, TooLarge(self.max_body_bytes_));
    }
    const HttpReply reply = self.handler_(pending->request);
    if (!reply.more || pending->request.method == MHD_HTTP_METHOD_HEAD) {
      return Send(connection, reply);
    }
    if (self.streams_.size() >= kMostStreams) {
      return Send(connection, ErrorReply(503, absl::StrFormat("all %u streams are in use; end one",
                                                              kMostStreams)));
    }
    return self.StartStream(connection, reply) ? MHD_YES : MHD_NO;
  }
};

HttpDaemon::HttpDaemon(Handler handler, Connections* connections, size_t max_body_bytes)
    : handler_(std::move(handler)), connections_(connections), max_body_bytes_(max_body_bytes) {}

absl::StatusOr<std::unique_ptr<HttpDaemon>> HttpDaemon::Make(Handler handler,
                                                             Connections* connections,
                                                             size_t max_body_bytes,
                                                             unsigned max_connections) {
  std::unique_ptr<HttpDaemon> daemon(
      new HttpDaemon(std::move(handler), connections, max_body_bytes));
  HttpDaemon* const self = daemon.get();
  self->daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, nullptr, nullptr,
      &Callbacks::Request, self, MHD_OPTION_CONNECTION_LIMIT, max_connections,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionMemory, MHD_OPTION_URI_LOG_CALLBACK,
      &Callbacks::RequestLine, self, MHD_OPTION_NOTIFY_COMPLETED, &Callbacks::RequestDone, self,
      MHD_OPTION_NOTIFY_CONNECTION, &Callbacks::ConnectionChanged, self, MHD_OPTION_END);
  if (self->daemon_ == nullptr) {
    return absl::InternalError(
        absl::StrFormat("cannot start the HTTP daemon: %s", std::strerror(errno)));
  }
  const MHD_DaemonInfo* const info = MHD_get_daemon_info(self->daemon_, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == nullptr || info->epoll_fd < 0) {
    return absl::InternalError("the HTTP daemon has no epoll descriptor");
  }
  self->epoll_fd_ = info->epoll_fd;
  return daemon;
}

HttpDaemon::~HttpDaemon() {
  if (daemon_ == nullptr) return;
  EndStreams();  // the library aborts on a connection that is suspended at its end
  MHD_stop_daemon(daemon_);
}

void HttpDaemon::EndStreams() {
  streams_end_ = true;
  for (Stream* stream : streams_) stream->Tick();
}

bool HttpDaemon::Add(UniqueFd connection) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  return MHD_add_connection(daemon_, connection.Release(),
                            reinterpret_cast<const sockaddr*>(&address),
                            sizeof(address.sun_family)) == MHD_YES;
}

std::optional<int> HttpDaemon::TimeoutMs() const {
  // Also for those that are not suspended: the library wants a second run after a resumption, and
  // announces it by no descriptor.
  const bool waits = !streams_.empty();
  MHD_UNSIGNED_LONG_LONG timeout = 0;
  if (MHD_get_timeout(daemon_, &timeout) != MHD_YES) {
    return waits ? std::optional(kStreamTickMs) : std::nullopt;
  }
  const auto most =
      static_cast<MHD_UNSIGNED_LONG_LONG>(waits ? kStreamTickMs : std::numeric_limits<int>::max());
  return static_cast<int>(std::min(timeout, most));
}

void HttpDaemon::Run() {
  for (Stream* stream : streams_) stream->Tick();
  MHD_run(daemon_);
}

}  // namespace underfoot
