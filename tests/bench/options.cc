#include "tests/bench/options.h"

#include <optional>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace underfoot::bench {
namespace {

constexpr unsigned kProcessesOfAFullRun = 4;
constexpr unsigned kMostProcesses = 100;

}  // namespace

const char kUsage[] =
    "Usage: underfoot_bench [--filter=TEXT,...] [--rounds=N] [--processes=N] [--quick]\n"
    "                       [--json=FILE] [--seed=N] [--allow-host-changes]\n"
    "\n"
    "Measures variants of one operation in turns and prints their ratios.\n"
    "\n"
    "  --filter=TEXT  only comparisons whose name contains TEXT, as in --filter=stage2; several\n"
    "                 texts are separated by commas\n"
    "  --rounds=N     N rounds of each instead of its own number; more rounds, less spread. Each\n"
    "                 process takes its part, rounded up\n"
    "  --processes=N  divides the rounds among N processes, one after the other, so that the "
    "spread\n"
    "                 contains what differs between processes: where memory lies, and the hour;\n"
    "                 4 without this option, 1 with --quick\n"
    "  --quick        fewer rounds, at most two seconds for each comparison\n"
    "  --smoke        a few milliseconds each: shows that they run, the numbers mean nothing\n"
    "  --json=FILE    the results as JSON too; with --json=- nothing else is printed\n"
    "  --seed=N       another seed for what is drawn at random; 1 without this option\n"
    "  --allow-host-changes  as root: huge pages are reserved, and KSM, khugepaged and NUMA\n"
    "                 balancing are woken, where a comparison needs them; all is put back.\n"
    "                 Without it such a comparison is skipped\n"
    "  --peers=FOLDER what peers/prepare.sh has built there is measured too (./dev bench peers)\n"
    "  --commit=TEXT  the version that the JSON names\n"
    "\n"
    "Both CPUs should be idle. tests/bench/README.md says what the rows mean.\n";

const char* NameOf(Effort effort) {
  switch (effort) {
    case Effort::kFull:
      return "full";
    case Effort::kQuick:
      return "quick";
    case Effort::kSmoke:
      return "smoke";
  }
  return "";
}

absl::StatusOr<BenchOptions> ParseOptions(const std::vector<std::string>& arguments) {
  BenchOptions options;
  options.processes = 0;
  for (const std::string& argument : arguments) {
    const auto value_of = [&](std::string_view flag) -> std::optional<std::string> {
      if (!argument.starts_with(flag)) return std::nullopt;
      return argument.substr(flag.size());
    };
    if (argument == "--help" || argument == "-h") {
      options.help = true;
    } else if (argument == "--quick") {
      options.effort = Effort::kQuick;
    } else if (argument == "--smoke") {
      options.effort = Effort::kSmoke;
    } else if (argument == "--allow-host-changes") {
      options.may_change_host = true;
    } else if (const auto filters = value_of("--filter=")) {
      options.filters = absl::StrSplit(*filters, ',', absl::SkipEmpty());
    } else if (const auto commit = value_of("--commit=")) {
      options.commit = *commit;
    } else if (const auto seed = value_of("--seed=")) {
      if (!absl::SimpleAtoi(*seed, &options.seed)) {
        return absl::InvalidArgumentError(
            absl::StrCat(argument, ": give a number, as in --seed=7"));
      }
    } else if (const auto path = value_of("--json=")) {
      options.json_path = *path;
    } else if (const auto peers = value_of("--peers=")) {
      options.peers = *peers;
    } else if (const auto rounds = value_of("--rounds=")) {
      if (!absl::SimpleAtoi(*rounds, &options.rounds) || options.rounds == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(argument, ": give a number of rounds above 0, as in --rounds=100"));
      }
    } else if (const auto processes = value_of("--processes=")) {
      if (!absl::SimpleAtoi(*processes, &options.processes) || options.processes == 0 ||
          options.processes > kMostProcesses) {
        return absl::InvalidArgumentError(absl::StrCat(argument,
                                                       ": give a number of processes from 1 to ",
                                                       kMostProcesses, ", as in --processes=2"));
      }
    } else if (const auto rounds_path = value_of("--rounds-file=")) {
      options.rounds_path = *rounds_path;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown argument '", argument, "'; --help lists what there is"));
    }
  }
  if (options.processes == 0) {
    options.processes = options.effort == Effort::kFull ? kProcessesOfAFullRun : 1;
  }
  return options;
}

}  // namespace underfoot::bench
