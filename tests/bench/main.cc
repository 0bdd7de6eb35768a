// underfoot_bench: the ratios that the project promises, measured.

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/rcu.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"

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
  Bench bench(*options);
  bench.RunAll();
  if (bench.results().comparisons.empty() && bench.results().skipped.empty()) {
    std::cerr << "underfoot_bench: no comparison has '" << absl::StrJoin(options->filters, "' or '")
              << "' in its name\n";
    return 2;
  }
  return WriteJson(options->json_path, bench.results()) ? 0 : 1;
}

}  // namespace
}  // namespace underfoot::bench

int main(int argc, char** argv) {
  return underfoot::bench::Main(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
