// A request and a reply of the control socket, free of any HTTP library.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CONTROL_HTTP_H_
#define UNDERFOOT_VMM_CONTROL_HTTP_H_

#include <functional>
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
};

inline constexpr std::string_view kJsonContentType = "application/json";

struct HttpReply {
  int status = 200;
  std::string content_type = std::string(kJsonContentType);
  std::string body = {};
  std::string allow = {};  // the methods of the route, with a 405
  // A stream: after `body`, what this returns is sent, again and again until the client goes;
  // empty: nothing yet. Called by the server's thread.
  std::function<std::string()> more = {};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_HTTP_H_
