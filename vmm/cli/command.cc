#include "vmm/cli/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "vmm/cli/help.h"
#include "vmm/cli/run_arguments.h"
#include "vmm/cli/units.h"
#include "vmm/config/churn_spec.h"

namespace underfoot {
namespace {

// The arguments that all client commands have, as text.
struct ClientArguments {
  std::string control;
  bool json = false;
  bool csv = false;
  bool nonzero = false;
  std::string group;
  std::string watch;
  std::string gfn;
  std::string from;
  std::string seconds;
  bool take = false;
  std::string churn_spec;
  bool churn_start = false;
  bool churn_stop = false;
  std::string churn_seed;
  std::string bytes;
  bool wait = false;
};

struct ClientVerbInfo {
  ClientVerb verb;
  const char* name;
  const char* help;
  bool watch;
};

constexpr std::array<ClientVerbInfo, 16> kClientVerbs = {{
    {ClientVerb::kStats, "stats", "Show every counter of a running machine", true},
    {ClientVerb::kCaches, "caches", "List the pfn caches of a running machine", true},
    {ClientVerb::kMemslots, "memslots", "List the memslots of a running machine", true},
    {ClientVerb::kStage2, "stage2", "Walk the stage-2 table for one guest frame", true},
    {ClientVerb::kWorkingSet, "working-set", "Show how much guest memory was touched lately", true},
    {ClientVerb::kDirty, "dirty", "Show how much guest memory was written, or take the pages",
     true},
    {ClientVerb::kDevices, "devices", "List the virtio devices, their queues, and the event pages",
     true},
    {ClientVerb::kBalloon, "balloon", "Show or set how much memory the guest gives back", true},
    {ClientVerb::kMemory, "memory", "Show or set how much memory the guest has plugged", true},
    {ClientVerb::kCoverage, "coverage", "Show which source reported which kind of churn", true},
    {ClientVerb::kEvents, "events", "Follow the changes of a machine's host memory", false},
    {ClientVerb::kChurn, "churn", "Show or change the churn of a running machine", true},
    {ClientVerb::kPause, "pause", "Stop the vCPUs of a running machine", false},
    {ClientVerb::kResume, "resume", "Let the vCPUs run again", false},
    {ClientVerb::kQuit, "quit", "End a running machine, with its verdict and summary", false},
    {ClientVerb::kWait, "wait",
     "Wait for the end of the machine; the exit code is that of its run, and 2 without a machine",
     false},
}};

// A check of CLI11: a script whose variable is empty must not get what happens without the option.
std::string NamesSomething(const std::string& text) {
  return text.empty() ? "'' is empty; give a value, or leave the option out" : "";
}

// A flag takes no value: `--json=no` would otherwise be accepted.
CLI::Option* AddFlag(CLI::App* sub, const char* name, bool& flag, const char* help) {
  return sub->add_flag(name, flag, help)->disable_flag_override();
}

void AddRunOptions(CLI::App* sub, RunArguments* run) {
  // So that an option may be given again to override a script's default.
  sub->option_defaults()->take_last();
  sub->add_option(
         "--guest", run->guest,
         "hello, stamp, smp, shared, mixed (all of them), devices (mixed, mostly on its disk), "
         "or the path of an ELF file")
      ->type_name("NAME|ELF")
      ->capture_default_str();
  sub->add_option(
         "--kernel", run->kernel,
         "Run Linux: a bzImage (vmlinuz), or a vmlinux with a PVH entry; see docs/linux.md")
      ->type_name("FILE")
      ->check(&NamesSomething)
      ->excludes("--guest");
  sub->add_option("--initrd", run->initrd, "The initial RAM disk of that kernel")
      ->type_name("FILE")
      ->check(&NamesSomething);
  sub->add_option("--append", run->append,
                  "More of that kernel's command line, which begins with console=ttyS0")
      ->type_name("TEXT");
  AddFlag(sub, "--console", run->console,
          "This terminal is the Linux guest's serial port and virtio console (hvc0); Ctrl-] "
          "switches the guest off");
  sub->add_option("--memory", run->memory, "Guest memory: whole pages from 32M to 222G")
      ->type_name("SIZE")
      ->capture_default_str();
  sub->add_option("--hotplug-memory", run->hotplug_memory,
                  "Memory that the guest can plug while it runs, beside --memory; see underfoot "
                  "memory. A multiple of 128M for a Linux guest, else of 2M; 0: none. Guest mixed "
                  "has 16M unless something is against it")
      ->type_name("SIZE");
  sub->add_option("--vcpus", run->vcpus, "1 to 32")->type_name("N")->capture_default_str();
  sub->add_option("--backing", run->backing,
                  "Which host memory backs the guest: private memory or a memfd")
      ->type_name("anon|memfd")
      ->capture_default_str();
  sub->add_option(
         "--huge-pages", run->huge_pages,
         "Pages of the host that guest memory is made of: 4 KiB, transparent huge pages, or "
         "reserved (hugetlb) pages of 2 MiB or 1 GiB; auto: thp for a Linux guest in private "
         "memory, if this host can bring them in as a whole (Linux 6.8), otherwise off")
      ->type_name("auto|off|thp|2M|1G")
      ->capture_default_str();
  sub->add_option(
         "--fault-around", run->fault_around,
         "The most pages that one fault brings in when faults follow one another, up to 512; 1: "
         "only its own")
      ->type_name("PAGES")
      ->capture_default_str();
  sub->add_option("--fault-handlers", run->fault_handlers,
                  "Threads that serve page faults, 1 to 8; auto: one for each CPU")
      ->type_name("N|auto")
      ->capture_default_str();
  AddFlag(sub, "--pin-vcpus", run->pin_vcpus,
          "Keep each vCPU on one CPU: vCPU i on the i-th, round robin");
  sub->add_option("--uffd-events", run->uffd_events,
                  "Whether userfaultfd reports what other threads and processes discard; each "
                  "madvise of guest memory then waits until the report has been read")
      ->type_name("on|off")
      ->capture_default_str();
  sub->add_option("--churn", run->churn, "Which operations move the memory, and how often")
      ->type_name("SPEC|off")
      ->capture_default_str();
  sub->add_option("--retired-cap", run->retired_cap,
                  "Bytes of table pages that may wait to be freed; above it, code that retires "
                  "more of them waits (auto: 16M, and the tables of all guest memory)")
      ->type_name("SIZE|auto")
      ->capture_default_str();
  sub->add_option("--kernel-events", run->kernel_events,
                  "Whether to read KVM's tracepoints; auto: if the host allows it; on: fail if it "
                  "does not")
      ->type_name("auto|on|off")
      ->capture_default_str();
  sub->add_option("--write-protect", run->write_protect,
                  "Whether this program (sync) or the kernel (async) resolves write-protect "
                  "faults; auto: async if --working-set needs it")
      ->type_name("auto|sync|async")
      ->capture_default_str();
  sub->add_option("--working-set", run->working_set,
                  "How often to sample which pages the guest touches, for `underfoot working-set`; "
                  "it turns --fault-around off")
      ->type_name("TIME|off")
      ->capture_default_str();
  sub->add_option(
         "--disk", run->disks,
         "A file or block device as the guest's disk; the guest mixed writes to it, and "
         "has a temporary one without. ,ro: read-only. Up to 8 for a Linux guest: /dev/vda, "
         "/dev/vdb, ...")
      ->type_name("FILE[,ro]")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  sub->add_option(
         "--dirty-log", run->dirty_log,
         "Log which pages are written, and how often to collect the log, for `underfoot dirty`")
      ->type_name("TIME|off")
      ->capture_default_str();
  sub->add_option("--seed", run->seed, "Seed of the churn; the same seed gives the same schedule")
      ->type_name("N")
      ->capture_default_str();
  sub->add_option("--duration", run->duration,
                  "How long the guest runs, pauses included, like 500ms, 10s, 2m, 1d; 0: until "
                  "`underfoot quit`; auto: 10s, and 0 for a Linux guest")
      ->type_name("TIME|auto")
      ->capture_default_str();
  sub->add_option("--end-timeout", run->end_timeout,
                  "How long the end waits for a guest that makes no progress; auto: 60s and 30s "
                  "more for each GiB of memory")
      ->type_name("TIME|auto")
      ->capture_default_str();
  sub->add_option("--control", run->control,
                  "Path of the control socket; its directory must exist (default: by name)")
      ->type_name("PATH")
      ->check(&NamesSomething);
  sub->add_option("--name", run->name, "Name of the machine (default: vm-PID)")
      ->type_name("NAME")
      ->check(&NamesSomething);
  sub->add_option("--record", run->record, "Write the churn to this file as it happens")
      ->type_name("FILE")
      ->check(&NamesSomething);
  sub->add_option("--replay", run->replay, "Repeat the churn of this file; it replaces --churn")
      ->type_name("FILE")
      ->check(&NamesSomething)
      ->excludes("--churn");
  AddFlag(sub, "--allow-host-changes", run->allow_host_changes,
          "Let the run add swap space, run KSM, compact memory, reserve huge pages; all is put "
          "back at the end");
  AddFlag(sub, "--json", run->json, "Print the summary as JSON, and no status line");
  sub->footer(RunFooter());
}

void AddChurnOptions(CLI::App* sub, ClientArguments* client) {
  sub->add_option("--set", client->churn_spec, "New rates, as for `run --churn`")
      ->type_name("SPEC");
  CLI::Option* const start = AddFlag(sub, "--start", client->churn_start, "Start the churn");
  AddFlag(sub, "--stop", client->churn_stop, "Stop the churn")->excludes(start);
  sub->add_option("--seed", client->churn_seed, "Begin the schedule anew from this seed")
      ->type_name("N");
}

void AddStatsOptions(CLI::App* sub, ClientArguments* client) {
  sub->add_option("GROUP", client->group,
                  "Show only one group: vm, guest, pfn_caches, stage2, ...");
  AddFlag(sub, "--nonzero", client->nonzero, "Leave out counters that are zero");
  AddFlag(sub, "--csv", client->csv,
          "Print comma-separated values: a line of names, then of numbers");
}

void AddClientOptions(CLI::App* sub, const ClientVerbInfo& info, ClientArguments* client) {
  sub->footer(ClientFooter(info.verb));
  if (info.verb == ClientVerb::kStats) AddStatsOptions(sub, client);
  if (info.verb == ClientVerb::kStage2) {
    sub->add_option("GFN", client->gfn, "Guest frame number, decimal or 0x...")->required();
  }
  if (info.verb == ClientVerb::kChurn) AddChurnOptions(sub, client);
  if (info.verb == ClientVerb::kBalloon) {
    sub->add_option(
           "--set", client->bytes,
           "Ask the guest to give this much memory back, and wait until it has, or has changed "
           "nothing for 2 seconds; 0: it may take all of it")
        ->type_name("SIZE");
  }
  if (info.verb == ClientVerb::kMemory) {
    sub->add_option("--set", client->bytes,
                    "Ask the guest to have this much memory plugged beside its --memory, and wait "
                    "until it has, or has changed nothing for 2 seconds; at most --hotplug-memory")
        ->type_name("SIZE");
  }
  if (info.verb == ClientVerb::kQuit) {
    AddFlag(sub, "--wait", client->wait,
            "Wait for the end of the machine; the exit code is that of its run, and 2 without "
            "a machine");
  }
  if (info.verb == ClientVerb::kEvents) {
    sub->add_option("--from", client->from,
                    "Number of the first event; 0: the oldest event that is kept")
        ->type_name("N");
  }
  if (info.verb == ClientVerb::kWorkingSet) {
    sub->add_option("--seconds", client->seconds,
                    "Show pages touched in this many seconds, or in a time like 2m; without it: "
                    "since the last scan")
        ->type_name("N|TIME");
  }
  sub->add_option("--control", client->control, "Path of the control socket, or a machine's name")
      ->type_name("PATH")
      ->check(&NamesSomething);
  CLI::Option* const json = AddFlag(sub, "--json", client->json, "Print the answer as JSON");
  if (info.verb == ClientVerb::kStats) json->excludes("--csv");
  if (info.watch) {
    CLI::Option* const watch =
        sub->add_option("--watch", client->watch, "Ask again every second, or every SECONDS")
            ->type_name("[SECONDS]")
            ->expected(0, 1);
    if (info.verb == ClientVerb::kDirty) {
      AddFlag(sub, "--take", client->take,
              "Take the pages, and list them as ranges of guest frames: the first, and the one "
              "after the last; each page is taken once")
          ->excludes(watch);
    }
  }
}

absl::Status BadOption(std::string_view option, const absl::Status& status) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: %s", option, std::string(status.message())));
}

// A duration as in other options, or a plain number of seconds: "5", "0.5", "500ms", "1d". Must be
// more than 0.
absl::StatusOr<std::chrono::milliseconds> ParseSeconds(const std::string& text) {
  const bool bare = !text.empty() && text.back() >= '0' && text.back() <= '9';
  absl::StatusOr<std::chrono::milliseconds> duration = ParseDuration(bare ? text + "s" : text);
  if (duration.ok() && duration->count() > 0) return duration;
  if (absl::IsOutOfRange(duration.status())) return duration.status();
  double seconds = 0;
  const char* const end = text.data() + text.size();
  if (std::from_chars(text.data(), end, seconds).ptr == end && seconds > kMostDays * 24 * 3600) {
    return absl::OutOfRangeError(
        absl::StrFormat("'%s' is more than the most, %ud", text.substr(0, 80), kMostDays));
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "'%s' is not a time above 0; write seconds, like 10 or 0.5, or 500ms, 2m, 1h, 1d",
      text.substr(0, 80)));
}

absl::StatusOr<ChurnEdit> CheckChurnEdit(const ClientArguments& arguments, const CLI::App& sub) {
  ChurnEdit edit;
  if (sub.count("--set") > 0) {
    const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(arguments.churn_spec);
    if (!spec.ok()) return BadOption("--set", spec.status());
    edit.spec = arguments.churn_spec;
  }
  if (sub.count("--seed") > 0) {
    const absl::StatusOr<uint64_t> seed = ParseNumber(arguments.churn_seed);
    if (!seed.ok()) return BadOption("--seed", seed.status());
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
  command.csv = arguments.csv;
  command.nonzero = arguments.nonzero;
  command.group = arguments.group;
  command.wait = arguments.wait;
  command.take = arguments.take;
  if (info.watch && sub.count("--watch") > 0) {
    const absl::StatusOr<std::chrono::milliseconds> watch =
        ParseSeconds(arguments.watch.empty() ? "1" : arguments.watch);
    if (!watch.ok()) return BadOption("--watch", watch.status());
    command.watch = *watch;
  }
  if (info.verb == ClientVerb::kStage2) {
    const absl::StatusOr<uint64_t> gfn = ParseNumber(arguments.gfn);
    if (!gfn.ok()) return BadOption("GFN", gfn.status());
    command.gfn = Gfn{*gfn};
  }
  if (info.verb == ClientVerb::kEvents && sub.count("--from") > 0) {
    const absl::StatusOr<uint64_t> from = ParseNumber(arguments.from);
    if (!from.ok()) return BadOption("--from", from.status());
    command.from = *from;
  }
  if (info.verb == ClientVerb::kWorkingSet && sub.count("--seconds") > 0) {
    const absl::StatusOr<std::chrono::milliseconds> seconds = ParseSeconds(arguments.seconds);
    if (!seconds.ok()) return BadOption("--seconds", seconds.status());
    // Enough digits for kMostDays: an exponent's + would be a blank in a URL.
    command.seconds = absl::StrFormat("%.11g", static_cast<double>(seconds->count()) * 1e-3);
  }
  if ((info.verb == ClientVerb::kBalloon || info.verb == ClientVerb::kMemory) &&
      sub.count("--set") > 0) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(arguments.bytes);
    if (!bytes.ok()) return BadOption("--set", bytes.status());
    command.bytes = *bytes;
  }
  if (info.verb == ClientVerb::kChurn) {
    absl::StatusOr<ChurnEdit> edit = CheckChurnEdit(arguments, sub);
    if (!edit.ok()) return edit.status();
    command.churn = *std::move(edit);
  }
  return command;
}

// One line: the message of the library, and where to find the help.
absl::Status UsageError(const CLI::App& app, std::string what) {
  std::replace(what.begin(), what.end(), '\n', ' ');
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  const std::string command =
      chosen.empty() ? "underfoot" : "underfoot " + chosen.front()->get_name();
  return absl::InvalidArgumentError(absl::StrFormat("%s (see %s --help)", what, command));
}

// Reports a first word that is neither a known option nor a command. The library would report only
// that a command is missing.
absl::Status CheckCommandName(const CLI::App& app, const std::vector<std::string>& arguments) {
  if (arguments.empty()) return absl::OkStatus();
  if (const std::string& first = arguments.front(); first.starts_with('-')) {
    if (first == "--help" || first == "-h" || first == "--version") return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("unknown option '%s'; before a command there are --help and --version, and "
                        "the options of a command stand behind it (see underfoot --help)",
                        absl::CEscape(first.substr(0, 80))));
  }
  std::string names;
  for (const CLI::App* const sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (sub->get_name() == arguments.front()) return absl::OkStatus();
    absl::StrAppendFormat(&names, "%s%s", names.empty() ? "" : ", ", sub->get_name());
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("unknown command '%s'; the commands are %s (see underfoot --help)",
                      absl::CEscape(arguments.front().substr(0, 80)), names));
}

// The library names a flag that was given a value without its dashes.
std::string WordsOf(const CLI::ParseError& error) {
  const std::string what = error.what();
  if (!what.ends_with("disallowed flag override")) return what;
  return absl::StrCat("--", what.substr(0, what.find(' ')), " takes no value");
}

}  // namespace

std::string CommandLine(const std::vector<std::string>& arguments) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,%+@";
  std::string line = "underfoot";
  for (const std::string& argument : arguments) {
    const bool plain = !argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos;
    line += plain ? " " + argument : " '" + absl::StrReplaceAll(argument, {{"'", "'\\''"}}) + "'";
  }
  return line;
}

absl::StatusOr<Command> ParseCommandLine(const std::vector<std::string>& arguments,
                                         const SocketEnvironment& environment) {
  CLI::App app("A small hypervisor whose guest memory stays correct while the host moves it.",
               "underfoot");
  RunArguments run;
  ClientArguments client;
  DoctorCommand doctor;
  app.set_version_flag("--version", std::string("underfoot ") + kVersion);
  app.require_subcommand(1);
  app.footer(std::string(kMainFooter));
  // Only the command that is meant gets its options: those of all commands take longer to build
  // than the rest of the command line takes to parse.
  const auto command = std::find_if(arguments.begin(), arguments.end(),
                                    [](const std::string& word) { return !word.starts_with('-'); });
  const auto add = [&](const char* name, const char* help) -> CLI::App* {
    CLI::App* const sub = app.add_subcommand(name, help);
    return command != arguments.end() && *command == name ? sub : nullptr;
  };
  if (CLI::App* const sub = add("run", "Run a guest while its memory is moved")) {
    AddRunOptions(sub, &run);
  }
  for (const ClientVerbInfo& info : kClientVerbs) {
    if (CLI::App* const sub = add(info.name, info.help)) AddClientOptions(sub, info, &client);
  }
  if (CLI::App* const sub =
          add("doctor", "Show what this machine offers, and what is lost without the rest")) {
    AddFlag(sub, "--json", doctor.json, "Print the checks as JSON");
    AddFlag(sub, "--restore", doctor.restore,
            "First put back what a killed run has changed about the host");
    sub->footer(std::string(kDoctorFooter));
  }

  if (absl::Status known = CheckCommandName(app, arguments); !known.ok()) return known;
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    return HelpCommand{WrappedHelp(app.help())};
  } catch (const CLI::CallForVersion&) {
    return HelpCommand{absl::StrFormat("underfoot %s\n", kVersion)};
  } catch (const CLI::ExtrasError&) {
    return UsageError(app,
                      "unknown arguments: " + absl::StrJoin(app.remaining(/*recurse=*/true), " "));
  } catch (const CLI::ParseError& error) {
    return UsageError(app, WordsOf(error));
  }
  if (app.got_subcommand("doctor")) return doctor;
  for (const ClientVerbInfo& info : kClientVerbs) {
    if (!app.got_subcommand(info.name)) continue;
    return CheckClient(info, client, *app.get_subcommand(info.name));
  }
  absl::StatusOr<RunOptions> options = CheckRunArguments(run, environment);
  if (!options.ok()) return options.status();
  options->command_line = CommandLine(arguments);
  return *std::move(options);
}

}  // namespace underfoot
