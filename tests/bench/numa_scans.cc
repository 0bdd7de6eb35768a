#include "tests/bench/numa_scans.h"

#include <sched.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"

namespace underfoot::bench {

const std::vector<int>& CpusOfNodes() {
  static const std::vector<int> cpus = [] {
    std::map<unsigned, int> cpu_of;
    for (const int cpu : AllowedCpus()) {
      const Pinned pinned(cpu);
      unsigned node = 0;
      if (getcpu(nullptr, &node) == 0) cpu_of.emplace(node, cpu);
    }
    std::vector<int> found;
    found.reserve(cpu_of.size());
    for (const auto& [node, cpu] : cpu_of) found.push_back(cpu);
    return found;
  }();
  return cpus;
}

std::vector<std::pair<std::string, std::string>> NumaBalancingKnobs() {
  constexpr char kMs[] = "100";
  constexpr char kFolder[] = "/sys/kernel/debug/sched/numa_balancing/";
  return {{"/proc/sys/kernel/numa_balancing", "1"},
          {absl::StrCat(kFolder, "scan_delay_ms"), kMs},
          {absl::StrCat(kFolder, "scan_period_min_ms"), kMs},
          {absl::StrCat(kFolder, "scan_period_max_ms"), kMs}};
}

uint64_t NumaScans() {
  std::ifstream file("/proc/self/sched");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("mm->numa_scan_seq")) continue;
    return std::strtoull(line.substr(line.find(':') + 1).c_str(), nullptr, 10);
  }
  return 0;
}

}  // namespace underfoot::bench
