#include "vmm/cli/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/churn_kind.h"
#include "vmm/churn_spec.h"
#include "vmm/cli/run_arguments.h"
#include "vmm/cli/units.h"

namespace underfoot {
namespace {

constexpr char kVersion[] = "underfoot 0.1.0";

constexpr char kMainFooter[] = R"(Examples:
  underfoot doctor                                what this machine offers
  underfoot run --churn mixed                     two vCPUs, 256 MiB, ten seconds of churn
  underfoot run --churn storm --duration 0 &      until `underfoot quit`
  underfoot stats --watch                         every counter, once a second
  underfoot events                                what happens to its host memory, as it happens
  underfoot stage2 0x100                          where guest frame 0x100 is right now
Exit codes: 0 good, 1 failure, 2 wrong command line.
`underfoot COMMAND --help` tells more.)";

constexpr char kControlFooter[] =
    "Without --control it asks the only machine that runs; with a name, the one of that name.";

// What the client commands have in common, as text.
struct ClientArguments {
  std::string control;
  bool json = false;
  std::string watch;
  std::string gfn;
  std::string from;
  std::string seconds;
  std::string churn_spec;
  bool churn_start = false;
  bool churn_stop = false;
  std::string churn_seed;
};

struct ClientVerbInfo {
  ClientVerb verb;
  const char* name;
  const char* help;
  bool watch;
};

constexpr std::array<ClientVerbInfo, 11> kClientVerbs = {{
    {ClientVerb::kStats, "stats", "Show every counter of a running machine", true},
    {ClientVerb::kCaches, "caches", "List its pfn caches", true},
    {ClientVerb::kMemslots, "memslots", "List its memslots", true},
    {ClientVerb::kStage2, "stage2", "Walk the stage-2 table for one guest frame", true},
    {ClientVerb::kWorkingSet, "working-set", "Show how much of its memory was touched lately",
     true},
    {ClientVerb::kCoverage, "coverage", "Show which source saw which kind of churn", true},
    {ClientVerb::kEvents, "events", "Follow what happens to its host memory", false},
    {ClientVerb::kChurn, "churn", "Show or change the churn of its memory", true},
    {ClientVerb::kPause, "pause", "Stop its vCPUs", false},
    {ClientVerb::kResume, "resume", "Let its vCPUs run again", false},
    {ClientVerb::kQuit, "quit", "End it, with its verdict and summary", false},
}};

const char* BackingNote(BackingNeed need) {
  switch (need) {
    case BackingNeed::kAny:
      return "";
    case BackingNeed::kAnon:
      return " (anon only)";
    case BackingNeed::kMemfd:
      return " (memfd only)";
  }
  return "";
}

std::string RunFooter() {
  std::string text = "Kinds of churn:\n";
  for (const ChurnKindInfo& info : kChurnKinds) {
    absl::StrAppendFormat(&text, "  %-10s%s%s\n", info.name, info.help, BackingNote(info.backing));
  }
  text +=
      R"(A SPEC is off, mixed (2000/s in all), storm (20000/s), mixed:5000/s, or kinds with rates.
Examples:
  underfoot run --churn mixed
  underfoot run --backing memfd --churn discard:2000/s,memslot:20/s --seed 7
  underfoot run --guest stamp --vcpus 4 --memory 1G --churn storm --duration 2m --json
  underfoot run --guest ./my-guest.elf --duration 0 --control /tmp/my.sock
Exit code 0 only if the guest's verdict is good, the audit is clean and nothing leaked.)";
  return text;
}

void AddRun(CLI::App* app, RunArguments* run) {
  CLI::App* const sub = app->add_subcommand("run", "Run a guest while its memory is moved");
  sub->option_defaults()->take_last();  // so that a script's defaults can be overridden
  sub->add_option("--guest", run->guest,
                  "hello, stamp, smp, shared, mixed (all of them), or the path of an ELF file")
      ->type_name("NAME|ELF")
      ->capture_default_str();
  sub->add_option("--memory", run->memory, "Guest memory: whole pages from 32M to 1T")
      ->type_name("SIZE")
      ->capture_default_str();
  sub->add_option("--vcpus", run->vcpus, "1 to 32")->type_name("N")->capture_default_str();
  sub->add_option("--backing", run->backing, "What guest memory is made of on the host")
      ->type_name("anon|memfd")
      ->capture_default_str();
  sub->add_option(
         "--fault-around", run->fault_around,
         "Most pages to bring in with a fault, up to 512, when faults follow one another; 1 "
         "brings in no other")
      ->type_name("PAGES")
      ->capture_default_str();
  sub->add_option("--uffd-events", run->uffd_events,
                  "Whether userfaultfd tells what others discard; each own madvise then waits for "
                  "its reader")
      ->type_name("on|off")
      ->capture_default_str();
  sub->add_option("--churn", run->churn, "What moves the memory, and how often")
      ->type_name("SPEC|off")
      ->capture_default_str();
  sub->add_option("--retired-cap", run->retired_cap,
                  "Bytes of table pages that may wait to be freed; above it whoever retires waits")
      ->capture_default_str();
  sub->add_option("--kernel-events", run->kernel_events,
                  "Listen to KVM's tracepoints: where possible, or else fail, or not at all")
      ->type_name("auto|on|off")
      ->capture_default_str();
  sub->add_option("--write-protect", run->write_protect,
                  "Who resolves write-protect faults: this program, or (async) the kernel; auto: "
                  "async where --working-set needs it")
      ->type_name("auto|sync|async")
      ->capture_default_str();
  sub->add_option("--working-set", run->working_set,
                  "Sample which pages are touched, so often; see `underfoot working-set`")
      ->type_name("TIME|off")
      ->capture_default_str();
  sub->add_option("--seed", run->seed, "Of the churn; the same seed is the same schedule")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--duration", run->duration, "500ms, 10s, 2m, 1h; 0 runs until quit")
      ->type_name("TIME")
      ->capture_default_str();
  sub->add_option("--control", run->control, "Path of the control socket (default: by name)")
      ->type_name("PATH");
  sub->add_option("--name", run->name, "Name of the machine (default: vm-PID)")->type_name("NAME");
  sub->add_option("--record", run->record, "Write the churn as it happens")->type_name("FILE");
  sub->add_option("--replay", run->replay, "Repeat recorded churn; it replaces --churn")
      ->type_name("FILE")
      ->excludes("--churn");
  sub->add_flag("--allow-host-changes", run->allow_host_changes,
                "Let churn add swap space, run KSM, compact memory; all is put back at the end");
  sub->add_flag("--json", run->json, "Print the summary as JSON, and no status line");
  sub->footer(RunFooter());
}

void AddChurnOptions(CLI::App* sub, ClientArguments* client) {
  sub->add_option("--set", client->churn_spec, "New rates, as for `run --churn`")
      ->type_name("SPEC");
  CLI::Option* const start = sub->add_flag("--start", client->churn_start, "Let it run");
  sub->add_flag("--stop", client->churn_stop, "Stop it")->excludes(start);
  sub->add_option("--seed", client->churn_seed, "Begin the schedule anew from this seed")
      ->type_name("N");
  sub->footer(std::string(R"(Examples:
  underfoot churn
  underfoot churn --set discard:5000/s,memslot:50/s --start
  underfoot churn --stop
)") + kControlFooter);
}

void AddClient(CLI::App* app, const ClientVerbInfo& info, ClientArguments* client) {
  CLI::App* const sub = app->add_subcommand(info.name, info.help);
  sub->footer(kControlFooter);
  if (info.verb == ClientVerb::kStage2) {
    sub->add_option("GFN", client->gfn, "Guest frame number, decimal or 0x...")->required();
  }
  if (info.verb == ClientVerb::kChurn) AddChurnOptions(sub, client);
  if (info.verb == ClientVerb::kEvents) {
    sub->add_option("--from", client->from, "Number of the first; 0: the oldest that is kept")
        ->type_name("N");
  }
  if (info.verb == ClientVerb::kWorkingSet) {
    sub->add_option("--seconds", client->seconds, "Touched in so many; without: by the last scan")
        ->type_name("N");
  }
  sub->add_option("--control", client->control, "Path of the control socket, or a machine's name")
      ->type_name("PATH");
  sub->add_flag("--json", client->json, "The answer as JSON");
  if (info.watch) {
    sub->add_option("--watch", client->watch, "Again and again, every second or SECONDS")
        ->type_name("[SECONDS]")
        ->expected(0, 1);
  }
}

absl::Status Bad(std::string_view option, const absl::Status& status) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: %s", option, std::string(status.message())));
}

// "5", "0.5" or, like everywhere else, "500ms".
absl::StatusOr<std::chrono::milliseconds> ParseWatch(const std::string& text) {
  if (text.empty()) return std::chrono::milliseconds(1000);
  double seconds = 0;
  if (CLI::detail::lexical_cast(text, seconds) && seconds > 0 && seconds <= 86400) {
    return std::chrono::milliseconds(std::max<int64_t>(1, static_cast<int64_t>(seconds * 1000)));
  }
  const absl::StatusOr<std::chrono::milliseconds> duration = ParseDuration(text);
  if (duration.ok() && duration->count() > 0) return *duration;
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is no time to wait; write seconds, like 2 or 0.5", text.substr(0, 80)));
}

absl::StatusOr<ChurnEdit> CheckChurnEdit(const ClientArguments& arguments, const CLI::App& sub) {
  ChurnEdit edit;
  if (sub.count("--set") > 0) {
    const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(arguments.churn_spec);
    if (!spec.ok()) return Bad("--set", spec.status());
    edit.spec = arguments.churn_spec;
  }
  if (sub.count("--seed") > 0) {
    const absl::StatusOr<uint64_t> seed = ParseNumber(arguments.churn_seed);
    if (!seed.ok()) return Bad("--seed", seed.status());
    edit.seed = *seed;
  }
  if (arguments.churn_start) edit.running = true;
  if (arguments.churn_stop) edit.running = false;
  return edit;
}

absl::StatusOr<Command> CheckClient(const ClientVerbInfo& info, const ClientArguments& arguments,
                                    const CLI::App& sub) {
  ClientCommand command;
  command.verb = info.verb;
  command.control = arguments.control;
  command.json = arguments.json;
  if (info.watch && sub.count("--watch") > 0) {
    const absl::StatusOr<std::chrono::milliseconds> watch = ParseWatch(arguments.watch);
    if (!watch.ok()) return Bad("--watch", watch.status());
    command.watch = *watch;
  }
  if (info.verb == ClientVerb::kStage2) {
    const absl::StatusOr<uint64_t> gfn = ParseNumber(arguments.gfn);
    if (!gfn.ok()) return Bad("GFN", gfn.status());
    command.gfn = Gfn{*gfn};
  }
  if (info.verb == ClientVerb::kEvents && sub.count("--from") > 0) {
    const absl::StatusOr<uint64_t> from = ParseNumber(arguments.from);
    if (!from.ok()) return Bad("--from", from.status());
    command.from = *from;
  }
  if (info.verb == ClientVerb::kWorkingSet && sub.count("--seconds") > 0) {
    double seconds = 0;
    if (!CLI::detail::lexical_cast(arguments.seconds, seconds) || !(seconds > 0)) {
      return Bad("--seconds", absl::InvalidArgumentError(
                                  absl::StrFormat("'%s' must be a number above 0, like 10 or 0.5",
                                                  arguments.seconds.substr(0, 80))));
    }
    command.seconds = arguments.seconds;
  }
  if (info.verb == ClientVerb::kChurn) {
    absl::StatusOr<ChurnEdit> edit = CheckChurnEdit(arguments, sub);
    if (!edit.ok()) return edit.status();
    command.churn = *std::move(edit);
  }
  return command;
}

// One line: what the library says, and where the help is.
absl::Status UsageError(const CLI::App& app, const CLI::ParseError& error) {
  std::string what = error.what();
  std::replace(what.begin(), what.end(), '\n', ' ');
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  const std::string command =
      chosen.empty() ? "underfoot" : "underfoot " + chosen.front()->get_name();
  return absl::InvalidArgumentError(absl::StrFormat("%s (see %s --help)", what, command));
}

}  // namespace

absl::StatusOr<Command> ParseCommandLine(const std::vector<std::string>& arguments,
                                         const SocketEnvironment& environment) {
  CLI::App app("A small hypervisor whose guest memory stays correct while the host moves it.",
               "underfoot");
  RunArguments run;
  ClientArguments client;
  DoctorCommand doctor;
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(1);
  app.footer(kMainFooter);
  AddRun(&app, &run);
  for (const ClientVerbInfo& info : kClientVerbs) AddClient(&app, info, &client);
  CLI::App* const doctor_app = app.add_subcommand(
      "doctor", "Say what this machine offers, and what is lost without the rest");
  doctor_app->add_flag("--json", doctor.json, "As JSON");
  doctor_app->add_flag("--restore", doctor.restore,
                       "First put back what a killed run has changed about the host");

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return HelpCommand{app.help()};
  } catch (const CLI::CallForVersion&) {
    return HelpCommand{std::string(kVersion) + "\n"};
  } catch (const CLI::ParseError& error) {
    return UsageError(app, error);
  }
  if (app.got_subcommand("doctor")) return doctor;
  for (const ClientVerbInfo& info : kClientVerbs) {
    if (!app.got_subcommand(info.name)) continue;
    return CheckClient(info, client, *app.get_subcommand(info.name));
  }
  absl::StatusOr<RunOptions> options = CheckRunArguments(run, environment);
  if (!options.ok()) return options.status();
  return *std::move(options);
}

}  // namespace underfoot
