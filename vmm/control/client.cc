#include "vmm/control/client.h"

#include <curl/curl.h>

#include <array>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/control/probe.h"
#include "vmm/control/socket_path.h"

namespace underfoot {
namespace {

// Far above any answer of ours; a socket that is not ours cannot fill our memory.
constexpr size_t kMaxReplyBytes = size_t{16} << 20;

struct EasyDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
using EasyHandle = std::unique_ptr<CURL, EasyDeleter>;

struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, ListDeleter>;

size_t AppendBody(char* data, size_t size, size_t count, void* cls) {
  auto* const body = static_cast<std::string*>(cls);
  const size_t bytes = size * count;
  if (body->size() + bytes > kMaxReplyBytes) return 0;  // ends the transfer with an error
  body->append(data, bytes);
  return bytes;
}

struct Follower {
  CURL* curl;
  const std::function<bool(std::string_view)>* take;
  std::string error_body;
  bool enough = false;
};

size_t PassOn(char* data, size_t size, size_t count, void* cls) {
  auto* const follower = static_cast<Follower*>(cls);
  const size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(follower->curl, CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) return AppendBody(data, size, count, &follower->error_body);
  follower->enough = !(*follower->take)(std::string_view(data, bytes));
  return follower->enough ? 0 : bytes;  // 0 ends the transfer with an error
}

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 413:
    case 415:
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
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kUnknown;
  }
}

// The message of {"error": {"message": ...}}, or the status alone.
absl::Status StatusOf(const HttpReply& reply) {
  std::string message = absl::StrFormat("HTTP status %d", reply.status);
  const Json json = Json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error") && json["error"].is_object() &&
      json["error"].contains("message") && json["error"]["message"].is_string()) {
    message = json["error"]["message"].get<std::string>();
  }
  return {CodeOf(reply.status), message};
}

absl::StatusOr<Json> JsonOf(const absl::StatusOr<HttpReply>& reply, const std::string& path) {
  if (!reply.ok()) return reply.status();
  if (reply->status < 200 || reply->status > 299) return StatusOf(*reply);
  Json json = Json::parse(reply->body, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InternalError(
        absl::StrFormat("what answers at %s sent no JSON; is it an underfoot machine?", path));
  }
  return json;
}

// Why nobody could be reached at `path`.
std::string WhyUnreachable(const std::string& path) {
  switch (ProbeSocket(path)) {
    case SocketProbe::kAbsent:
      return "there is no such socket";
    case SocketProbe::kNotSocket:
      return "that is no socket";
    case SocketProbe::kUnknown:
      return "this user may not reach it";
    case SocketProbe::kStale:
    case SocketProbe::kLive:  // just now, or the backlog is full
      return "nobody answers there";
  }
  return "";
}

}  // namespace

class ControlClient::Connection {
 public:
  Connection(EasyHandle easy, std::string path, std::chrono::milliseconds timeout)
      : path_(std::move(path)), timeout_(timeout), easy_(std::move(easy)) {}

  absl::StatusOr<HttpReply> Perform(const std::string& method, const std::string& target,
                                    const std::string& body);
  absl::Status Follow(const std::string& target, const std::function<bool(std::string_view)>& take);

 private:
  void SetCommonOptions();
  absl::Status Failure(CURLcode code) const;

  const std::string path_;
  const std::chrono::milliseconds timeout_;
  const EasyHandle easy_;  // keeps the connection from request to request
  std::string body_;
  std::array<char, CURL_ERROR_SIZE> error_{};
};

void ControlClient::Connection::SetCommonOptions() {
  CURL* const curl = easy_.get();
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error_.data());
  curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, path_.c_str());
  curl_easy_setopt(curl, CURLOPT_PROXY, "");  // whatever http_proxy says
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout_.count()));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &AppendBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body_);
}

absl::StatusOr<HttpReply> ControlClient::Connection::Perform(const std::string& method,
                                                             const std::string& target,
                                                             const std::string& body) {
  CURL* const curl = easy_.get();
  SetCommonOptions();
  const std::string url = "http://underfoot" + target;
  const HeaderList headers(curl_slist_append(nullptr, "Content-Type: application/json"));
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  if (method == "HEAD") curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  if (method == "PUT" || !body.empty()) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  }
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method.c_str());
  body_.clear();
  error_[0] = '\0';
  if (absl::Status failed = Failure(curl_easy_perform(curl)); !failed.ok()) return failed;
  long status = 0;
  char* type = nullptr;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
  return HttpReply{.status = static_cast<int>(status),
                   .content_type = type == nullptr ? "" : type,
                   .body = std::exchange(body_, {})};
}

absl::Status ControlClient::Connection::Failure(CURLcode code) const {
  if (code == CURLE_OK) return absl::OkStatus();
  if (code == CURLE_COULDNT_CONNECT) {
    return absl::UnavailableError(absl::StrFormat(
        "no answer from %s: %s; is the machine still running?", path_, WhyUnreachable(path_)));
  }
  return absl::UnavailableError(
      absl::StrFormat("no answer from %s: %s", path_,
                      error_[0] != '\0' ? std::string(error_.data()) : curl_easy_strerror(code)));
}

absl::Status ControlClient::Connection::Follow(const std::string& target,
                                               const std::function<bool(std::string_view)>& take) {
  CURL* const curl = easy_.get();
  SetCommonOptions();
  Follower follower{.curl = curl, .take = &take, .error_body = {}};
  curl_easy_setopt(curl, CURLOPT_URL, ("http://underfoot" + target).c_str());
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 0L);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &PassOn);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &follower);
  error_[0] = '\0';
  const CURLcode code = curl_easy_perform(curl);
  if (follower.enough) return absl::OkStatus();
  if (absl::Status failed = Failure(code); !failed.ok()) return failed;
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200) return absl::OkStatus();
  return StatusOf({.status = static_cast<int>(status), .body = std::move(follower.error_body)});
}

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Make(
    std::string path, std::chrono::milliseconds timeout) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return address.status();
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_NOTHING); });
  EasyHandle easy(curl_easy_init());
  if (easy == nullptr) return absl::ResourceExhaustedError("curl_easy_init failed: out of memory");
  auto connection = std::make_unique<Connection>(std::move(easy), path, timeout);
  return std::unique_ptr<ControlClient>(new ControlClient(std::move(path), std::move(connection)));
}

ControlClient::ControlClient(std::string path, std::unique_ptr<Connection> connection)
    : path_(std::move(path)), connection_(std::move(connection)) {}

ControlClient::~ControlClient() = default;

absl::StatusOr<HttpReply> ControlClient::Send(const std::string& method, const std::string& target,
                                              const std::string& body) {
  return connection_->Perform(method, target, body);
}

absl::StatusOr<Json> ControlClient::Get(const std::string& target) {
  return JsonOf(Send("GET", target), path_);
}

absl::Status ControlClient::Follow(const std::string& target,
                                   const std::function<bool(std::string_view)>& take) {
  return connection_->Follow(target, take);
}

absl::StatusOr<Json> ControlClient::Put(const std::string& target, const Json& body) {
  return JsonOf(Send("PUT", target, Dump(body)), path_);
}

}  // namespace underfoot
