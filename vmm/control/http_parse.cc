#include "vmm/control/http_parse.h"

#include <http_parser.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

// The headers that this program uses. If one of them occurs twice the request is refused, because
// it could be interpreted in two ways.
struct Headers {
  std::optional<std::string> content_length;
  std::optional<std::string> content_type;
  std::optional<std::string> expect;
  std::optional<std::string> last_event_id;

  std::optional<std::string>* Find(std::string_view name) {
    if (SameButForCase(name, "content-length")) return &content_length;
    if (SameButForCase(name, "content-type")) return &content_type;
    if (SameButForCase(name, "expect")) return &expect;
    if (SameButForCase(name, "last-event-id")) return &last_event_id;
    return nullptr;
  }
};

// Joins header lines, which the library delivers in pieces.
class HeaderCollector {
 public:
  void Name(std::string_view piece) {
    if (in_value_) Finish();
    name_ += piece;
  }
  void Value(std::string_view piece) {
    in_value_ = true;
    value_ += piece;
  }
  void Finish() {
    // The library accepts a blank before the colon; other programs read such a name as a different
    // header.
    if (name_.find(' ') != std::string::npos) wrong_ = "a header's name holds a blank";
    if (std::optional<std::string>* const place = headers_.Find(name_)) {
      if (place->has_value()) wrong_ = "the header " + name_ + " is there twice";
      *place = std::string(Trimmed(value_));
    }
    name_.clear();
    value_.clear();
    in_value_ = false;
  }

  Headers& headers() { return headers_; }
  const std::string& wrong() const { return wrong_; }  // what is wrong; empty: nothing

 private:
  Headers headers_;
  std::string name_;
  std::string value_;
  std::string wrong_;
  bool in_value_ = false;
};

// Decodes a part of a URL; nullopt if an escape is wrong or stands for a NUL.
std::optional<std::string> Unescaped(std::string_view text, bool plus_is_blank) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (plus_is_blank && c == '+') c = ' ';
    if (c == '%') {
      const std::string_view digits = text.substr(i + 1, 2);
      if (digits.size() != 2 ||
          digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
        return std::nullopt;
      }
      uint8_t value = 0;
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
      c = static_cast<char>(value);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    plain += c;
  }
  return plain;
}

// Fills path and query from the target of the request line: a path, an absolute URL or "*".
std::optional<HttpRefusal> ReadTarget(std::string_view target, HttpRequest* request) {
  constexpr std::string_view kScheme = "http://";
  if (SameButForCase(target.substr(0, kScheme.size()), kScheme)) {
    target.remove_prefix(kScheme.size());
    const size_t path = target.find_first_of("/?#");
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  const std::optional<std::string> path = Unescaped(target.substr(0, question), false);
  const HttpRefusal wrong = {
      400, "the URL has a wrong escape; % must stand before two hexadecimal digits, not 00"};
  if (!path.has_value()) return wrong;
  request->path = *path;
  std::string_view query =
      question == std::string_view::npos ? std::string_view() : target.substr(question + 1);
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (pair.empty()) continue;
    const size_t equal = std::min(pair.find('='), pair.size());
    std::optional<std::string> name = Unescaped(pair.substr(0, equal), true);
    std::optional<std::string> value =
        Unescaped(pair.substr(std::min(equal + 1, pair.size())), true);
    if (!name.has_value() || !value.has_value()) return wrong;
    request->query.emplace_back(*std::move(name), *std::move(value));
  }
  return std::nullopt;
}

void LimitHeads() {
  static std::once_flag once;
  std::call_once(once, [] { http_parser_set_max_header_size(kMaxHeadBytes); });
}

}  // namespace

std::string_view ReasonPhrase(int status) {
  const std::string_view phrase = http_status_str(static_cast<http_status>(status));
  return phrase.starts_with('<') ? "Unknown" : phrase;
}

struct RequestReader::State {
  http_parser parser{};
  http_parser_settings settings{};
  size_t max_body_bytes = 0;
  std::string target;
  HeaderCollector headers;
  HttpRequest request;
  std::optional<HttpRefusal> refusal;
  bool begun = false;
  bool wants_continue = false;
  bool whole = false;
  bool keep_alive = false;

  static State& Of(http_parser* parser) { return *static_cast<State*>(parser->data); }

  int Refuse(int status, std::string message) {
    refusal = HttpRefusal{status, std::move(message)};
    return -1;  // makes the library stop
  }
  int RefuseBody() {
    return Refuse(413, absl::StrFormat("the body has more than %u bytes", max_body_bytes));
  }

  // False: the text of the header is not the number that the library has parsed from it.
  bool LengthIsClear() {
    const std::optional<std::string>& text = headers.headers().content_length;
    if (!text.has_value()) return true;
    uint64_t value = 0;
    const char* const end = text->data() + text->size();
    const auto [stop, error] = std::from_chars(text->data(), end, value);
    return error == std::errc() && stop == end && (parser.flags & F_CONTENTLENGTH) != 0 &&
           value == parser.content_length;
  }

  int HeadIsWhole() {
    begun = true;
    headers.Finish();
    if (parser.http_major != 1) {
      return Refuse(505, absl::StrFormat("HTTP version %u.%u is not spoken here; use HTTP/1.1",
                                         parser.http_major, parser.http_minor));
    }
    if (!headers.wrong().empty()) return Refuse(400, headers.wrong());
    if (!LengthIsClear()) {
      return Refuse(400, absl::StrFormat("Content-Length is '%s'; it must be one decimal number",
                                         headers.headers().content_length->substr(0, 40)));
    }
    if (std::optional<HttpRefusal> wrong = ReadTarget(target, &request)) {
      return Refuse(wrong->status, wrong->message);
    }
    request.method = http_method_str(static_cast<http_method>(parser.method));
    request.content_type = headers.headers().content_type.value_or("");
    request.last_event_id = headers.headers().last_event_id;
    const bool has_length = (parser.flags & F_CONTENTLENGTH) != 0;
    if (has_length && parser.content_length > max_body_bytes) return RefuseBody();
    const std::string& expect = headers.headers().expect.value_or("");
    if (!expect.empty() && parser.http_minor >= 1) {
      if (!SameButForCase(expect, "100-continue")) {
        return Refuse(417, absl::StrFormat("Expect is '%s'; only 100-continue is known",
                                           expect.substr(0, 40)));
      }
      wants_continue = (has_length && parser.content_length > 0) || (parser.flags & F_CHUNKED) != 0;
    }
    keep_alive = parser.http_minor >= 1 && http_should_keep_alive(&parser) != 0;
    return 0;
  }

  // Callbacks of the library.
  static int OnUrl(http_parser* parser, const char* at, size_t size) {
    Of(parser).target.append(at, size);
    return 0;
  }
  static int OnName(http_parser* parser, const char* at, size_t size) {
    Of(parser).begun = true;
    // Trailers come after the body and are ignored.
    if (!Of(parser).request.method.empty()) return 0;
    Of(parser).headers.Name({at, size});
    return 0;
  }
  static int OnValue(http_parser* parser, const char* at, size_t size) {
    if (Of(parser).request.method.empty()) Of(parser).headers.Value({at, size});
    return 0;
  }
  static int OnHead(http_parser* parser) { return Of(parser).HeadIsWhole(); }
  static int OnBody(http_parser* parser, const char* at, size_t size) {
    State& self = Of(parser);
    self.wants_continue = false;
    if (self.request.body.size() + size > self.max_body_bytes) return self.RefuseBody();
    self.request.body.append(at, size);
    return 0;
  }
  static int OnWhole(http_parser* parser) {
    Of(parser).whole = true;
    Of(parser).wants_continue = false;
    http_parser_pause(parser, 1);  // the next request is left for the next reader
    return 0;
  }
};

namespace {

// The parts of a parser that requests and replies have in common.
template <class State>
void InitParser(State& state, http_parser_type type) {
  LimitHeads();
  http_parser_init(&state.parser, type);
  state.parser.data = &state;
  http_parser_settings_init(&state.settings);
  state.settings.on_header_field = &State::OnName;
  state.settings.on_header_value = &State::OnValue;
  state.settings.on_headers_complete = &State::OnHead;
  state.settings.on_body = &State::OnBody;
  state.settings.on_message_complete = &State::OnWhole;
}

}  // namespace

RequestReader::RequestReader(size_t max_body_bytes) : state_(std::make_unique<State>()) {
  InitParser(*state_, HTTP_REQUEST);
  state_->settings.on_url = &State::OnUrl;
  state_->max_body_bytes = max_body_bytes;
}

RequestReader::~RequestReader() = default;

size_t RequestReader::Feed(std::string_view bytes) {
  State& s = *state_;
  // The library interprets an empty input as the end of the connection.
  if (bytes.empty() || s.whole || s.refusal.has_value()) return 0;
  const size_t taken = http_parser_execute(&s.parser, &s.settings, bytes.data(), bytes.size());
  const http_errno error = HTTP_PARSER_ERRNO(&s.parser);
  if (s.whole || s.refusal.has_value() || error == HPE_OK) return taken;
  if (error == HPE_HEADER_OVERFLOW) {
    s.Refuse(431, absl::StrFormat("the request line and the headers have more than %u bytes",
                                  kMaxHeadBytes));
  } else {
    s.Refuse(400,
             absl::StrFormat("this is not an HTTP request: %s", http_errno_description(error)));
  }
  return taken;
}

void RequestReader::End() {
  State& s = *state_;
  if (s.whole || s.refusal.has_value() || !s.begun) return;
  s.Refuse(400, "the request ends before it is complete");
}

bool RequestReader::begun() const { return state_->begun; }
bool RequestReader::wants_continue() const { return state_->wants_continue; }
bool RequestReader::whole() const { return state_->whole; }
const std::optional<HttpRefusal>& RequestReader::refusal() const { return state_->refusal; }
HttpRequest& RequestReader::request() { return state_->request; }
bool RequestReader::keep_alive() const { return state_->keep_alive; }
bool RequestReader::takes_chunks() const { return state_->parser.http_minor >= 1; }

struct ReplyReader::State {
  http_parser parser{};
  http_parser_settings settings{};
  std::function<bool(int, std::string_view)> take;
  HeaderCollector headers;
  std::string content_type;
  int status = 0;
  bool head = false;
  bool has_head = false;
  bool whole = false;
  bool stopped = false;

  static State& Of(http_parser* parser) { return *static_cast<State*>(parser->data); }
  bool interim() const { return parser.status_code / 100 == 1; }

  static int OnName(http_parser* parser, const char* at, size_t size) {
    if (!Of(parser).has_head) Of(parser).headers.Name({at, size});
    return 0;
  }
  static int OnValue(http_parser* parser, const char* at, size_t size) {
    if (!Of(parser).has_head) Of(parser).headers.Value({at, size});
    return 0;
  }
  static int OnHead(http_parser* parser) {
    State& self = Of(parser);
    self.headers.Finish();
    if (self.interim()) return 0;
    self.has_head = true;
    self.status = static_cast<int>(parser->status_code);
    self.content_type = self.headers.headers().content_type.value_or("");
    return self.head ? 1 : 0;  // 1: there is no body, whatever the headers say
  }
  static int OnBody(http_parser* parser, const char* at, size_t size) {
    State& self = Of(parser);
    if (self.take(self.status, {at, size})) return 0;
    self.stopped = true;
    return -1;
  }
  static int OnWhole(http_parser* parser) {
    if (Of(parser).interim()) return 0;
    Of(parser).whole = true;
    http_parser_pause(parser, 1);  // the bytes that follow belong to no request
    return 0;
  }
};

ReplyReader::ReplyReader(bool head, std::function<bool(int, std::string_view)> take)
    : state_(std::make_unique<State>()) {
  InitParser(*state_, HTTP_RESPONSE);
  state_->take = std::move(take);
  state_->head = head;
}

ReplyReader::~ReplyReader() = default;

bool ReplyReader::Feed(std::string_view bytes) {
  State& s = *state_;
  http_parser_execute(&s.parser, &s.settings, bytes.data(), bytes.size());
  return s.whole || s.stopped || HTTP_PARSER_ERRNO(&s.parser) == HPE_OK;
}

bool ReplyReader::End() {
  State& s = *state_;
  if (s.whole || s.stopped) return true;
  // A body without a length ends here. The library then calls OnWhole.
  http_parser_execute(&s.parser, &s.settings, nullptr, 0);
  return s.whole;
}

bool ReplyReader::has_head() const { return state_->has_head; }
bool ReplyReader::whole() const { return state_->whole; }
bool ReplyReader::stopped() const { return state_->stopped; }
int ReplyReader::status() const { return state_->status; }
const std::string& ReplyReader::content_type() const { return state_->content_type; }
std::string ReplyReader::error() const {
  return http_errno_description(HTTP_PARSER_ERRNO(&state_->parser));
}

}  // namespace underfoot
