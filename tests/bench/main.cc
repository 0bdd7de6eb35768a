// underfoot_bench: the ratios that the project promises, measured.

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/rcu.h"
#include "tests/bench/bench.h"
#include "tests/bench/child_output.h"
#include "tests/bench/cpus.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {
namespace {

bool WriteJson(const std::string& path, const Results& results) {
  if (path.empty()) return true;
  if (path == "-") {
    std::cout << JsonOf(results);
    return true;
  }
  if (SaveJson(path, results)) return true;
  std::cerr << "underfoot_bench: cannot write '" << path << "'\n";
  return false;
}

// Runs this program once more with these arguments, and returns what it has measured.
absl::StatusOr<RoundsOfAll> RoundsOfAnotherProcess(std::vector<std::string> arguments) {
  const UniqueFd rounds(memfd_create("rounds", 0));
  if (!rounds.valid()) return absl::ErrnoToStatus(errno, "memfd_create");
  const std::string path = absl::StrCat("/proc/", getpid(), "/fd/", rounds.get());
  arguments.insert(arguments.begin(), "/proc/self/exe");
  arguments.push_back("--rounds-file=" + path);
  if (absl::Status run = RunToEnd(arguments); !run.ok()) return run;
  return LoadRounds(path);
}

// Of a process after the first: it measures for the one that started it, and ends with it.
int TakeRoundsFor(const BenchOptions& options) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  Bench bench(options);
  bench.RunAll();
  const absl::Status saved = SaveRounds(options.rounds_path, bench.rounds());
  if (saved.ok()) return 0;
  std::cerr << "underfoot_bench: " << std::string(saved.message()) << "\n";
  return 1;
}

int Main(const std::vector<std::string>& arguments) {
  const absl::StatusOr<BenchOptions> options = ParseOptions(arguments);
  if (!options.ok()) {
    std::cerr << "underfoot_bench: " << std::string(options.status().message()) << "\n";
    return 2;
  }
  if (options->help) {
    std::cout << kUsage;
    return 0;
  }
  // As the program does.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  AllowedCpus();       // before anything is pinned
  rcu::StartWorker();  // likewise: it keeps the CPUs that it starts with
  if (!options->rounds_path.empty()) return TakeRoundsFor(*options);
  Bench bench(*options);
  bench.RunAll();
  if (bench.results().comparisons.empty() && bench.results().skipped.empty()) {
    std::cerr << "underfoot_bench: no comparison has '" << absl::StrJoin(options->filters, "' or '")
              << "' in its name\n";
    return 2;
  }
  bool failed = false;
  for (unsigned process = 2; process <= options->processes; ++process) {
    std::cerr << "process " << process << " of " << options->processes << "\n";
    const absl::StatusOr<RoundsOfAll> more = RoundsOfAnotherProcess(arguments);
    if (!more.ok()) {
      std::cerr << "underfoot_bench: process " << process << " of " << options->processes << ": "
                << std::string(more.status().message()) << "; the results are without it\n";
      failed = true;
      break;
    }
    bench.Add(*more);
  }
  if (options->processes > 1 && options->json_path != "-") {
    std::cout << "\n== the rounds of all " << options->processes << " processes\n";
    for (const ComparisonResult& comparison : bench.results().comparisons) {
      std::cout << TableOf(comparison);
    }
  }
  if (const auto others = bench.results().others; others && options->json_path != "-") {
    std::cout << absl::StrFormat("\nothers took %.1f %% of the CPUs' time\n", 100 * *others);
  }
  return WriteJson(options->json_path, bench.results()) && !failed ? 0 : 1;
}

}  // namespace
}  // namespace underfoot::bench

int main(int argc, char** argv) {
  return underfoot::bench::Main(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
