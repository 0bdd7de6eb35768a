#include "vmm/cli/client_commands.h"

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/cli/views.h"
#include "vmm/control/client.h"
#include "vmm/control/json.h"

namespace underfoot {
namespace {

constexpr char kClearScreen[] = "\x1b[H\x1b[2J";

Json ChurnBody(const ChurnEdit& edit) {
  Json body = Json::object();
  if (edit.spec.has_value()) body["spec"] = *edit.spec;
  if (edit.running.has_value()) body["running"] = *edit.running;
  if (edit.seed.has_value()) body["seed"] = *edit.seed;
  return body;
}

absl::StatusOr<Json> PutState(ControlClient& client, const char* state) {
  return client.Put("/v1/vm", Json::object({{"state", state}}));
}

absl::StatusOr<Json> Ask(ControlClient& client, const ClientCommand& command) {
  switch (command.verb) {
    case ClientVerb::kStats:
      return client.Get("/v1/stats");
    case ClientVerb::kCaches:
      return client.Get("/v1/caches");
    case ClientVerb::kMemslots:
      return client.Get("/v1/memslots");
    case ClientVerb::kStage2:
      return client.Get(absl::StrFormat("/v1/stage2?gfn=%u", command.gfn.value));
    case ClientVerb::kWorkingSet:
      return client.Get(command.seconds.empty() ? "/v1/working-set"
                                                : "/v1/working-set?seconds=" + command.seconds);
    case ClientVerb::kCoverage:
      return client.Get("/v1/coverage");
    case ClientVerb::kEvents:
      break;  // a stream, no question
    case ClientVerb::kChurn:
      if (command.churn.empty()) return client.Get("/v1/churn");
      return client.Put("/v1/churn", ChurnBody(command.churn));
    case ClientVerb::kPause:
      return PutState(client, "paused");
    case ClientVerb::kResume:
      return PutState(client, "running");
    case ClientVerb::kQuit:
      return PutState(client, "quit");
  }
  return absl::InternalError("unreachable");
}

std::string View(const ClientCommand& command, const Json& answer, const Json* before) {
  switch (command.verb) {
    case ClientVerb::kStats:
      return StatsView(answer, before);
    case ClientVerb::kCaches:
      return CachesView(answer);
    case ClientVerb::kMemslots:
      return MemslotsView(answer);
    case ClientVerb::kStage2:
      return Stage2View(answer);
    case ClientVerb::kWorkingSet:
      return WorkingSetView(answer);
    case ClientVerb::kCoverage:
      return CoverageView(answer);
    case ClientVerb::kEvents:
      break;
    case ClientVerb::kChurn:
      return ChurnView(answer);
    case ClientVerb::kPause:
    case ClientVerb::kResume:
      return VmView(answer);
    case ClientVerb::kQuit:
      return absl::StrFormat("%s ends\n", answer.at("name").get<std::string>());
  }
  return "";
}

// What is printed for one answer. A machine of another version may answer with anything.
absl::StatusOr<std::string> Render(const ClientCommand& command, const Json& answer,
                                   const Json* before) {
  if (command.json) return (command.watch.has_value() ? Dump(answer) : Pretty(answer)) + "\n";
  try {
    return View(command, answer, before);
  } catch (const Json::exception& error) {
    return absl::InternalError(
        absl::StrFormat("the answer is not as expected (%s); --json shows it", error.what()));
  }
}

// Lines of a stream of server-sent events, put together from its pieces.
class EventPrinter {
 public:
  EventPrinter(bool json, std::ostream& out) : json_(json), out_(out) {}

  // False when nobody reads any more.
  bool Take(std::string_view piece) {
    constexpr std::string_view kData = "data: ";
    rest_ += piece;
    size_t begin = 0;
    for (size_t end; (end = rest_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const std::string_view line = std::string_view(rest_).substr(begin, end - begin);
      if (line.starts_with(kData)) Print(line.substr(kData.size()));
    }
    rest_.erase(0, begin);
    return static_cast<bool>(out_ << std::flush);
  }

 private:
  void Print(std::string_view data) {
    if (json_) {
      out_ << data << "\n";
      return;
    }
    const Json event = Json::parse(data, nullptr, /*allow_exceptions=*/false);
    try {
      out_ << EventLine(event) << "\n";
    } catch (const Json::exception&) {
      out_ << data << "\n";  // of another version
    }
  }

  const bool json_;
  std::ostream& out_;
  std::string rest_;
};

int Fail(const Output& output, const absl::Status& status) {
  output.err << "underfoot: " << std::string(status.message()) << "\n";
  return kExitFailure;
}

}  // namespace

int RunClient(const ClientCommand& command, const SocketEnvironment& environment,
              const Output& output) {
  const absl::StatusOr<std::string> path = ResolveControl(command.control, environment);
  if (!path.ok()) return Fail(output, path.status());
  const absl::StatusOr<std::unique_ptr<ControlClient>> client = ControlClient::Make(*path);
  if (!client.ok()) return Fail(output, client.status());
  if (command.verb == ClientVerb::kEvents) {
    EventPrinter printer(command.json, output.out);
    const absl::Status ended = (*client)->Follow(
        command.from.has_value() ? absl::StrFormat("/v1/events?from=%u", *command.from)
                                 : "/v1/events",
        [&](std::string_view piece) { return printer.Take(piece); });
    return ended.ok() ? kExitOk : Fail(output, ended);
  }
  ClientCommand current = command;
  std::optional<Json> before;
  while (true) {
    absl::StatusOr<Json> answer = Ask(**client, current);
    if (!answer.ok() && before.has_value() && absl::IsUnavailable(answer.status())) {
      output.err << "underfoot: the machine has ended\n";
      return kExitOk;
    }
    if (!answer.ok()) return Fail(output, answer.status());
    const absl::StatusOr<std::string> text =
        Render(current, *answer, before.has_value() ? &*before : nullptr);
    if (!text.ok()) return Fail(output, text.status());
    if (command.watch.has_value() && output.terminal && !command.json) output.out << kClearScreen;
    output.out << *text << std::flush;
    if (!command.watch.has_value()) return kExitOk;
    if (!output.out) return kExitOk;  // nobody reads any more
    if (!output.terminal && !command.json) output.out << "\n";
    before = *std::move(answer);
    current.churn = {};  // a change is made once, and watched from then on
    std::this_thread::sleep_for(*command.watch);
  }
}

}  // namespace underfoot
