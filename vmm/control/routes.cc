#include "vmm/control/routes.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "vmm/control/event_stream.h"
#include "vmm/control/json.h"
#include "vmm/control/metrics.h"
#include "vmm/control/requests.h"

namespace underfoot {
namespace {

// Guest physical addresses have at most 52 bits.
constexpr uint64_t kMaxGfn = uint64_t{1} << 40;

using Handler = HttpReply (*)(ControlTarget&, const HttpRequest&);

struct Route {
  std::string_view path;
  std::string_view parameter;  // the only query parameter; empty: none
  bool parameter_required;
  Handler get;
  Handler put;  // nullptr: not allowed
  std::string_view help;
  Handler post = nullptr;  // nullptr: not allowed
};

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

HttpReply StatusReply(const absl::Status& status) {
  return ErrorReply(HttpStatusOf(status.code()), std::string(status.message()));
}

HttpReply JsonReply(const Json& json, int status = 200) {
  return {.status = status, .body = Dump(json) + "\n"};
}

template <class T>
HttpReply ReplyOf(const absl::StatusOr<T>& value) {
  return value.ok() ? JsonReply(ToJson(*value)) : StatusReply(value.status());
}

HttpReply GetIndex(ControlTarget& target, const HttpRequest& request);

HttpReply GetVm(ControlTarget& target, const HttpRequest&) { return ReplyOf(target.GetVm()); }

HttpReply PutVm(ControlTarget& target, const HttpRequest& request) {
  const absl::StatusOr<VmRequest> wanted = ParseVmRequest(request.body);
  if (!wanted.ok()) return StatusReply(wanted.status());
  absl::Status done;
  switch (*wanted) {
    case VmRequest::kPause:
      done = target.Pause();
      break;
    case VmRequest::kResume:
      done = target.Resume();
      break;
    case VmRequest::kQuit:
      done = target.Quit();
      break;
  }
  if (!done.ok()) return StatusReply(done);
  const absl::StatusOr<VmInfo> vm = target.GetVm();
  if (!vm.ok()) return StatusReply(vm.status());
  // 202: the machine ends after this answer has been sent.
  return JsonReply(ToJson(*vm), *wanted == VmRequest::kQuit ? 202 : 200);
}

HttpReply GetStats(ControlTarget& target, const HttpRequest&) { return ReplyOf(target.GetStats()); }

HttpReply GetCaches(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetCaches());
}

HttpReply GetMemslots(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetMemslots());
}

std::optional<Gfn> ParseGfn(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc() || stop != end || value >= kMaxGfn) return std::nullopt;
  return Gfn{value};
}

HttpReply GetStage2(ControlTarget& target, const HttpRequest& request) {
  const std::optional<Gfn> gfn = ParseGfn(request.query.front().second);
  if (!gfn.has_value()) {
    return ErrorReply(400, absl::StrFormat("gfn is '%s'; it must be a guest frame number below "
                                           "0x%x, decimal or 0x...",
                                           request.query.front().second.substr(0, 40), kMaxGfn));
  }
  return ReplyOf(target.GetStage2(*gfn));
}

HttpReply GetWorkingSet(ControlTarget& target, const HttpRequest& request) {
  if (request.query.empty()) return ReplyOf(target.GetWorkingSet(std::nullopt));
  constexpr double kMost = 1e6;
  const std::string& text = request.query.front().second;
  double seconds = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || stop != text.data() + text.size() || !(seconds > 0) ||
      seconds > kMost) {
    return ErrorReply(400, absl::StrFormat("seconds is '%s'; it must be a number above 0 and up to "
                                           "%.0f, like 10 or 0.5",
                                           text.substr(0, 40), kMost));
  }
  return ReplyOf(target.GetWorkingSet(absl::Seconds(seconds)));
}

HttpReply GetDirty(ControlTarget& target, const HttpRequest&) { return ReplyOf(target.GetDirty()); }

// POST and not PUT: a client's library may repeat a PUT, and the second answer would lack the pages
// of the first.
HttpReply PostDirty(ControlTarget& target, const HttpRequest& request) {
  if (!request.body.empty()) {
    return ErrorReply(400, "POST /v1/dirty takes no body; it takes the pages that were written");
  }
  absl::StatusOr<DirtyPages> taken = target.TakeDirty();
  if (!taken.ok()) return StatusReply(taken.status());
  HttpReply reply = JsonReply(ToJson(*taken));
  reply.undelivered = [&target, pages = *std::move(taken)] { target.GiveBackDirty(pages); };
  return reply;
}

HttpReply GetCoverage(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetCoverage());
}

HttpReply GetDevices(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetDevices());
}

HttpReply GetBalloon(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetBalloon());
}

HttpReply PutBalloon(ControlTarget& target, const HttpRequest& request) {
  const absl::StatusOr<uint64_t> bytes = ParseBalloonRequest(request.body);
  if (!bytes.ok()) return StatusReply(bytes.status());
  return ReplyOf(target.SetBalloon(*bytes));
}

HttpReply GetMemory(ControlTarget& target, const HttpRequest&) {
  return ReplyOf(target.GetHotplug());
}

HttpReply PutMemory(ControlTarget& target, const HttpRequest& request) {
  const absl::StatusOr<uint64_t> bytes = ParseHotplugRequest(request.body);
  if (!bytes.ok()) return StatusReply(bytes.status());
  return ReplyOf(target.SetHotplug(*bytes));
}

// The number of an event; nullopt if `text` is not a number.
std::optional<uint64_t> ParseEventNumber(std::string_view text) {
  uint64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return number;
}

HttpReply GetEvents(ControlTarget& target, const HttpRequest& request) {
  const uint64_t end = target.EventsEnd();
  uint64_t first = end;
  // A client that reconnects sends both: the URL of its first request, and the number of the last
  // event that it received.
  if (request.last_event_id.has_value()) {
    const std::optional<uint64_t> last = ParseEventNumber(*request.last_event_id);
    if (!last.has_value()) {
      return ErrorReply(400, absl::StrFormat("Last-Event-ID is '%s'; it must be the id of an event",
                                             request.last_event_id->substr(0, 40)));
    }
    // This machine has not assigned such a number yet, so an earlier machine did: send all events
    // of this one.
    first = *last < end ? *last + 1 : 0;
  } else if (!request.query.empty()) {
    const std::string& text = request.query.front().second;
    const std::optional<uint64_t> from = ParseEventNumber(text);
    if (!from.has_value()) {
      return ErrorReply(400, absl::StrFormat("from is '%s'; it must be the number of an event, "
                                             "like 0 for the oldest that is still there",
                                             text.substr(0, 40)));
    }
    first = *from;
  }
  return {.content_type = std::string(kEventStreamContentType), .more = EventStream(target, first)};
}

HttpReply GetChurn(ControlTarget& target, const HttpRequest&) { return ReplyOf(target.GetChurn()); }

HttpReply PutChurn(ControlTarget& target, const HttpRequest& request) {
  const absl::StatusOr<VmInfo> vm = target.GetVm();
  if (!vm.ok()) return StatusReply(vm.status());
  const absl::StatusOr<ChurnRequest> wanted = ParseChurnRequest(request.body, vm->churn_limits);
  if (!wanted.ok()) return StatusReply(wanted.status());
  return ReplyOf(target.PutChurn(*wanted));
}

HttpReply GetMetrics(ControlTarget& target, const HttpRequest&) {
  const absl::StatusOr<Stats> stats = target.GetStats();
  if (!stats.ok()) return StatusReply(stats.status());
  return {.content_type = std::string(kMetricsContentType), .body = PrometheusText(*stats)};
}

constexpr std::array<Route, 15> kRoutes = {{
    {"/v1", "", false, GetIndex, nullptr, "this list"},
    {"/v1/vm", "", false, GetVm, PutVm,
     R"(the machine; PUT {"state": "paused", "running" or "quit"})"},
    {"/v1/stats", "", false, GetStats, nullptr, "every counter, in groups"},
    {"/v1/caches", "", false, GetCaches, nullptr, "the pfn caches"},
    {"/v1/memslots", "", false, GetMemslots, nullptr, "the memslots and their generation"},
    {"/v1/stage2", "gfn", true, GetStage2, nullptr,
     "the stage-2 walk of one guest frame, ?gfn=0x10"},
    {"/v1/working-set", "seconds", false, GetWorkingSet, nullptr,
     "pages touched in the last ?seconds=10, by memslot; without: by the last scan"},
    {"/v1/dirty", "", false, GetDirty, nullptr,
     "pages that were written, by memslot; POST takes them: each is answered once", PostDirty},
    {"/v1/coverage", "", false, GetCoverage, nullptr,
     "which source reported which kind of churn, and how late"},
    {"/v1/devices", "", false, GetDevices, nullptr,
     "the virtio devices and their queues, and the event pages"},
    {"/v1/balloon", "", false, GetBalloon, PutBalloon,
     R"(the memory that the guest has given back; PUT {"target_bytes": n})"},
    {"/v1/memory", "", false, GetMemory, PutMemory,
     R"(the memory that is plugged; PUT {"requested_bytes": n})"},
    {"/v1/events", "from", false, GetEvents, nullptr,
     "what happens to host memory, as server-sent events; ?from=0: from the oldest kept"},
    {"/v1/churn", "", false, GetChurn, PutChurn,
     R"(the churn; PUT {"running": bool, "seed": n, "rates": {kind: per second} or "spec": "mixed"})"},
    {"/metrics", "", false, GetMetrics, nullptr, "the counters as Prometheus text"},
}};

std::string_view MethodsOf(const Route& route) {
  if (route.post != nullptr) return "GET, HEAD, POST";
  return route.put == nullptr ? "GET, HEAD" : "GET, HEAD, PUT";
}

HttpReply GetIndex(ControlTarget&, const HttpRequest&) {
  Json list = Json::array();
  for (const Route& route : kRoutes) {
    list.push_back(
        Json::object({{"path", route.path}, {"methods", MethodsOf(route)}, {"help", route.help}}));
  }
  return JsonReply(Json::object({{"routes", list}}));
}

const Route* FindRoute(std::string_view path) {
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  for (const Route& route : kRoutes) {
    if (route.path == path) return &route;
  }
  return nullptr;
}

// Returns an error if the query is wrong.
std::optional<HttpReply> CheckQuery(const Route& route, const HttpRequest& request) {
  for (const auto& [name, value] : request.query) {
    if (name == route.parameter && !name.empty()) continue;
    return ErrorReply(
        400, absl::StrFormat("%s knows no parameter '%s'", route.path, name.substr(0, 40)));
  }
  if (request.query.empty() && !route.parameter_required) return std::nullopt;
  if (request.query.size() == 1) return std::nullopt;
  return ErrorReply(400, absl::StrFormat("%s needs one parameter %s, like %s?%s=0x10", route.path,
                                         route.parameter, route.path, route.parameter));
}

// The default type of curl -d counts as JSON too. Parameters such as charset=utf-8 are ignored.
bool IsJsonType(std::string_view content_type) {
  const std::string_view type = Trimmed(content_type.substr(0, content_type.find(';')));
  return type.empty() || SameButForCase(type, kJsonContentType) ||
         SameButForCase(type, "application/x-www-form-urlencoded");
}

}  // namespace

HttpReply ErrorReply(int status, std::string_view message) {
  const Json error = Json::object({{"status", status}, {"message", message}});
  return JsonReply(Json::object({{"error", error}}), status);
}

HttpReply Answer(ControlTarget& target, const HttpRequest& request) {
  const Route* const route = FindRoute(request.path);
  if (route == nullptr) {
    return ErrorReply(
        404, absl::StrFormat("no route '%s'; GET /v1 lists them", request.path.substr(0, 80)));
  }
  const bool get = request.method == "GET" || request.method == "HEAD";
  const Handler handler = get                        ? route->get
                          : request.method == "PUT"  ? route->put
                          : request.method == "POST" ? route->post
                                                     : nullptr;
  if (handler == nullptr) {
    HttpReply reply =
        ErrorReply(405, absl::StrFormat("%s does not take %s; it takes %s", route->path,
                                        request.method.substr(0, 20), MethodsOf(*route)));
    reply.allow = MethodsOf(*route);
    return reply;
  }
  if (std::optional<HttpReply> wrong = CheckQuery(*route, request)) return *std::move(wrong);
  if (get) return handler(target, request);
  if (!IsJsonType(request.content_type)) {
    return ErrorReply(415, absl::StrFormat("the content type is '%s'; send application/json",
                                           request.content_type.substr(0, 80)));
  }
  return handler(target, request);
}

}  // namespace underfoot
