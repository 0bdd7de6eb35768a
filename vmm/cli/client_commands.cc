#include "vmm/cli/client_commands.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/cli/console.h"
#include "vmm/cli/views.h"
#include "vmm/cli/wait.h"
#include "vmm/control/client.h"
#include "vmm/control/json.h"
#include "vmm/stats/run_end.h"

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

// How often the guest has reported about its memory.
uint64_t ReportsIn(const Json& balloon) {
  if (!balloon.is_object() || !balloon.contains("guest_memory")) return 0;
  const Json& guest = balloon.at("guest_memory");
  const bool known = guest.is_object() && guest.value("reports", Json()).is_number_unsigned();
  return known ? guest.at("reports").get<uint64_t>() : 0;
}

// Each answer brings what the guest has reported before, and asks for a new report. A guest that has
// made none before may have no driver that does.
absl::StatusOr<Json> GetBalloon(ControlClient& client) {
  constexpr std::chrono::milliseconds kPeriod(20);
  constexpr int kLooks = 25;
  absl::StatusOr<Json> answer = client.Get("/v1/balloon");
  const uint64_t before = answer.ok() ? ReportsIn(*answer) : 0;
  for (int i = 0; i < kLooks && before != 0 && answer.ok() && ReportsIn(*answer) == before; ++i) {
    std::this_thread::sleep_for(kPeriod);
    answer = client.Get("/v1/balloon");
  }
  return answer;
}

// A paused guest does nothing, so nothing is waited for.
bool IsPaused(ControlClient& client) {
  const absl::StatusOr<Json> vm = client.Get("/v1/vm");
  return vm.ok() && vm->is_object() && vm->value("state", Json()) == "paused";
}

// Waits while the guest is on its way to `target`.
absl::StatusOr<Json> SetAndWait(ControlClient& client, const char* path, const GuestTarget& target,
                                uint64_t bytes) {
  constexpr std::chrono::milliseconds kPeriod(50);
  absl::StatusOr<Json> answer = client.Put(path, Json::object({{target.asked, bytes}}));
  while (answer.ok() && GuestMoves(*answer, target) && !IsPaused(client)) {
    std::this_thread::sleep_for(kPeriod);
    answer = client.Get(path);
  }
  return answer;
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
    case ClientVerb::kDevices:
      return client.Get("/v1/devices");
    case ClientVerb::kBalloon:
      if (!command.bytes.has_value()) return GetBalloon(client);
      return SetAndWait(client, "/v1/balloon", kBalloonTarget, *command.bytes);
    case ClientVerb::kMemory:
      if (!command.bytes.has_value()) return client.Get("/v1/memory");
      return SetAndWait(client, "/v1/memory", kMemoryTarget, *command.bytes);
    case ClientVerb::kDirty:
      return command.take ? client.Post("/v1/dirty") : client.Get("/v1/dirty");
    case ClientVerb::kCoverage:
      return client.Get("/v1/coverage");
    case ClientVerb::kEvents:
      break;  // a stream, which is read elsewhere
    case ClientVerb::kChurn:
      if (command.churn.empty()) return client.Get("/v1/churn");
      return client.Put("/v1/churn", ChurnBody(command.churn));
    case ClientVerb::kPause:
      return PutState(client, "paused");
    case ClientVerb::kResume:
      return PutState(client, "running");
    case ClientVerb::kQuit:
      return PutState(client, "quit");
    case ClientVerb::kWait:
      break;  // WaitForEnd sends the requests
  }
  return absl::InternalError("unreachable");
}

// The state that is kept from one round of --watch to the next.
struct Watch {
  std::optional<Json> before;
  // The columns of the first round; every line has the same columns.
  std::vector<std::string> csv_names;
  size_t rows = 0;  // the number of rows that fit; 0: all

  const Json* earlier() const { return before.has_value() ? &*before : nullptr; }
};

std::string View(const ClientCommand& command, const Json& answer, Watch& watch) {
  switch (command.verb) {
    case ClientVerb::kStats: {
      const StatsLook look{command.group, command.nonzero, watch.rows};
      if (command.csv) return StatsCsv(answer, look, &watch.csv_names);
      return StatsView(answer, watch.earlier(), look);
    }
    case ClientVerb::kCaches:
      return CachesView(answer);
    case ClientVerb::kMemslots:
      return MemslotsView(answer);
    case ClientVerb::kStage2:
      return Stage2View(answer);
    case ClientVerb::kWorkingSet:
      return WorkingSetView(answer);
    case ClientVerb::kDevices:
      return DevicesView(answer);
    case ClientVerb::kBalloon:
      return BalloonView(answer);
    case ClientVerb::kMemory:
      return MemoryView(answer);
    case ClientVerb::kDirty:
      return command.take ? TakenView(answer) : DirtyView(answer);
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
    case ClientVerb::kWait:
      break;
  }
  return "";
}

absl::Status CheckGroup(const std::string& group, const Json& answer) {
  if (group.empty() || answer.contains(group)) return absl::OkStatus();
  std::string names;
  for (const auto& [name, fields] : answer.items()) names += (names.empty() ? "" : ", ") + name;
  return absl::InvalidArgumentError(
      absl::StrFormat("no group '%s'; there are %s", absl::CEscape(group.substr(0, 80)), names));
}

// Returns the text to print for one answer. The answer of another version may have any form.
absl::StatusOr<std::string> Render(const ClientCommand& command, const Json& answer, Watch& watch) {
  if (command.json) {
    const Json shown =
        command.group.empty() ? answer : Json::object({{command.group, answer.at(command.group)}});
    return (command.watch.has_value() ? Dump(shown) : Pretty(shown)) + "\n";
  }
  try {
    return View(command, answer, watch);
  } catch (const Json::exception& error) {
    return absl::InternalError(
        absl::StrFormat("the answer is not as expected (%s); --json shows it", error.what()));
  }
}

// Prints the lines of a stream of server-sent events.
class EventPrinter {
 public:
  EventPrinter(bool json, const Output& output) : json_(json), output_(output) {}

  // Returns false if no further line can be written.
  bool Take(std::string_view line) {
    constexpr std::string_view kData = "data: ";
    if (written_ == Written::kAll && line.starts_with(kData)) {
      written_ = PrintPart(output_, Line(line.substr(kData.size())) + "\n");
    }
    return written_ == Written::kAll;
  }
  Written written() const { return written_; }

 private:
  std::string Line(std::string_view data) const {
    if (json_) return std::string(data);
    const Json event = ParseJson(data);
    try {
      return Printable(EventLine(event));  // printable, because any process chooses its own name
    } catch (const Json::exception&) {
      return Printable(data);  // the event of another version
    }
  }

  const bool json_;
  const Output& output_;
  Written written_ = Written::kAll;
};

// Without --control the user has not said which machine is meant. Returns a line that names the one
// that has answered; empty if the user or the answer names it.
std::string Heading(const ClientCommand& command, const std::string& path) {
  const bool named = command.verb == ClientVerb::kPause || command.verb == ClientVerb::kResume ||
                     command.verb == ClientVerb::kQuit;
  if (!command.control.empty() || command.json || command.csv || named) return "";
  return absl::StrFormat("underfoot: the answer of %s:\n",
                         std::filesystem::path(path).stem().string());
}

int Fail(const Output& output, const absl::Status& status, int exit_code = kExitFailure) {
  output.err << "underfoot: " << std::string(status.message()) << "\n";
  return exit_code;
}

// After the last part of a stream that could be written.
int ExitAfter(Written written) { return written == Written::kFailed ? kExitFailure : kExitOk; }

}  // namespace

int RunClient(const ClientCommand& command, const SocketEnvironment& environment,
              const Output& output) {
  // A command that waits has the exit code of the run, of which 1 is a wrong result.
  const bool waits = command.verb == ClientVerb::kWait || command.wait;
  const int no_machine = waits ? ExitCodeOf(RunEnd::kCouldNotRun) : kExitFailure;
  const absl::StatusOr<std::string> path = ResolveControl(command.control, environment);
  if (!path.ok()) return Fail(output, path.status(), no_machine);
  const absl::StatusOr<std::unique_ptr<ControlClient>> client = ControlClient::Make(*path);
  if (!client.ok()) return Fail(output, client.status(), no_machine);
  const std::string heading = Heading(command, *path);
  if (command.verb == ClientVerb::kEvents) {
    EventPrinter printer(command.json, output);
    std::string unprinted = heading;
    const absl::Status ended = (*client)->Follow(
        command.from.has_value() ? absl::StrFormat("/v1/events?from=%u", *command.from)
                                 : "/v1/events",
        [&](std::string_view line) {
          output.err << std::exchange(unprinted, "");
          return printer.Take(line);
        });
    if (printer.written() != Written::kAll) return ExitAfter(printer.written());
    return ended.ok() ? kExitOk : Fail(output, ended);
  }
  if (command.verb == ClientVerb::kWait) return WaitForEnd(**client, command.json, output);
  if (command.wait) {
    // A machine that knows that a client waits keeps its socket until the client has the result.
    // This request makes the client known before the machine is asked to end, because the end may
    // be immediate.
    static_cast<void>((*client)->Get("/v1/vm"));
    absl::StatusOr<Json> asked = Ask(**client, command);
    for (bool said = false; PauseForLaterAnswer(asked.status(), said, output);) {
      asked = Ask(**client, command);
    }
    return asked.ok() ? WaitForEnd(**client, command.json, output)
                      : Fail(output, asked.status(), no_machine);
  }
  ClientCommand current = command;
  const bool screen = command.watch.has_value() && output.terminal && !command.json && !command.csv;
  Watch watch;
  bool said = false;
  while (true) {
    absl::StatusOr<Json> answer = Ask(**client, current);
    if (!answer.ok() && watch.before.has_value() && absl::IsUnavailable(answer.status())) {
      output.err << "underfoot: the machine has ended\n";
      return kExitOk;
    }
    if (watch.before.has_value() && PauseForLaterAnswer(answer.status(), said, output)) continue;
    if (!answer.ok()) return Fail(output, answer.status());
    // Only the machine knows its groups, so its first answer shows whether the command line is right.
    if (const absl::Status known = CheckGroup(command.group, *answer); !known.ok()) {
      return Fail(output, known, kExitUsage);
    }
    const size_t used = heading.empty() ? 1 : 2;
    watch.rows = screen && output.rows ? std::max<size_t>(output.rows(), used + 1) - used : 0;
    const absl::StatusOr<std::string> text = Render(current, *answer, watch);
    if (!text.ok()) return Fail(output, text.status());
    if (!screen && !watch.before.has_value()) output.err << heading;
    const GuestTarget& target =
        command.verb == ClientVerb::kMemory ? kMemoryTarget : kBalloonTarget;
    if (command.bytes.has_value() && !watch.before.has_value() && GuestIsOff(*answer, target) &&
        IsPaused(**client)) {
      output.err
          << "underfoot: the machine is paused, and its guest does nothing about this before "
             "`underfoot resume`\n";
    }
    const bool apart = command.watch.has_value() && !screen && !command.json && !command.csv;
    if (!command.watch.has_value()) return Print(output, *text) ? kExitOk : kExitFailure;
    const Written written = PrintPart(
        output, absl::StrCat(screen ? kClearScreen + heading : "", *text, apart ? "\n" : ""));
    if (written != Written::kAll) return ExitAfter(written);
    watch.before = *std::move(answer);
    current.churn = {};  // the change is made once; later rounds only read
    current.bytes = {};
    std::this_thread::sleep_for(*command.watch);
  }
}

}  // namespace underfoot
