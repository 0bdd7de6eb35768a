// Parses HTTP/1.1 requests and replies: two small classes that use the http_parser library.
//
// A RequestReader reads the bytes of a connection until one request is complete or refused. It
// refuses a request whose end could be determined in two ways (two lengths, a length together with
// chunks, a NUL anywhere in the head), so that no byte of a body is ever interpreted as the next
// request. A ReplyReader does the same on the client's side.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_CONTROL_HTTP_PARSE_H_
#define UNDERFOOT_VMM_CONTROL_HTTP_PARSE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "vmm/control/http.h"

namespace underfoot {

// The limit for a request line and its headers together; above it the answer is 431.
inline constexpr size_t kMaxHeadBytes = size_t{32} << 10;

struct HttpRefusal {
  int status;
  std::string message;
};

class RequestReader {
 public:
  explicit RequestReader(size_t max_body_bytes);
  ~RequestReader();
  RequestReader(const RequestReader&) = delete;
  RequestReader& operator=(const RequestReader&) = delete;

  // Reads bytes until the request is complete or refused. Returns how many it has used.
  size_t Feed(std::string_view bytes);
  // Reports that no more bytes will come. A request that has begun is then refused.
  void End();

  bool begun() const;           // the request line is complete
  bool wants_continue() const;  // the client waits for "100 Continue" before it sends the body
  bool whole() const;
  const std::optional<HttpRefusal>& refusal() const;

  HttpRequest& request();
  bool keep_alive() const;    // the client may send another request, in HTTP/1.1
  bool takes_chunks() const;  // HTTP/1.1

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

class ReplyReader {
 public:
  // `take` is called with the pieces of the body until it returns false. `head`: the reply to a
  // HEAD request, which has no body.
  ReplyReader(bool head, std::function<bool(int status, std::string_view piece)> take);
  ~ReplyReader();
  ReplyReader(const ReplyReader&) = delete;
  ReplyReader& operator=(const ReplyReader&) = delete;

  // False: the bytes are not an HTTP reply; error() has the reason.
  [[nodiscard]] bool Feed(std::string_view bytes);
  // Reports that the peer has closed the connection. False: the reply is incomplete.
  [[nodiscard]] bool End();

  bool has_head() const;
  bool whole() const;
  bool stopped() const;  // `take` has returned false
  int status() const;
  const std::string& content_type() const;
  std::string error() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

// "Not Found"; "Unknown" for a status that HTTP does not have.
std::string_view ReasonPhrase(int status);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_HTTP_PARSE_H_
