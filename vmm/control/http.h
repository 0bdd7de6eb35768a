// A request and a reply of the control socket, independent of any HTTP library.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CONTROL_HTTP_H_
#define UNDERFOOT_VMM_CONTROL_HTTP_H_

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace underfoot {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // "/v1/stage2", without the query
  std::vector<std::pair<std::string, std::string>> query;
  std::string content_type;
  std::string body;
  std::optional<std::string> last_event_id = {};  // the header Last-Event-ID, if present
};

// Compares as HTTP compares the names of headers, media types and schemes.
inline bool SameButForCase(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

// Removes the blanks at both ends.
inline std::string_view Trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

inline constexpr std::string_view kJsonContentType = "application/json";

struct HttpReply {
  int status = 200;
  std::string content_type = std::string(kJsonContentType);
  std::string body = {};
  std::string allow = {};  // the methods of the route, with a 405
  // For a stream: after `body`, the results of this function are sent, until the client
  // disconnects; an empty result: nothing yet. The server's thread calls it.
  std::function<std::string()> more = {};
  // Called if the connection ends before all of the reply has been sent. The server's thread calls
  // it.
  std::function<void()> undelivered = {};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_HTTP_H_
