// The kernel's NUMA balancing, as the process sees it whose memory is scanned. A scan takes the
// permissions of pages, so that the next access faults and shows the kernel which node uses them.
//
// Thread safety: any thread.
// After: kernel/sched/fair.c (task_numa_work) and kernel/sched/debug.c.

#ifndef UNDERFOOT_TESTS_BENCH_NUMA_SCANS_H_
#define UNDERFOOT_TESTS_BENCH_NUMA_SCANS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/bench/cpus.h"

namespace underfoot::bench {

// A CPU of each NUMA node, among those that this process may use.
const std::vector<int>& CpusOfNodes();

// By which NUMA balancing is on, and scans ten times a second: by itself it scans once a second and
// ever more seldom, up to once a minute, the less it gains.
std::vector<std::pair<std::string, std::string>> NumaBalancingKnobs();

// How many times all memory of this process has been scanned. 0: never, or the kernel does not count.
uint64_t NumaScans();

// Runs `work` on a CPU of that node of CpusOfNodes(), in a thread of its own: the kernel adapts how
// often it scans to each thread.
template <class Work>
void OnNode(unsigned node, const Work& work) {
  std::thread([&] {
    const Pinned pinned(CpusOfNodes()[node]);
    work();
  }).join();
}

// Calls `use` in a loop until there were `scans` more, since the kernel scans while a thread uses the
// CPU; then once more, because the faults come after the scan. False: the kernel does not scan.
template <class Use>
bool UseUntilScanned(uint64_t scans, const Use& use) {
  constexpr std::chrono::seconds kPatience{20};
  constexpr std::chrono::milliseconds kLook{5};
  const uint64_t enough = NumaScans() + scans;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  bool scanned = false;
  while (!scanned && std::chrono::steady_clock::now() < end) {
    const auto look = std::chrono::steady_clock::now() + kLook;
    while (std::chrono::steady_clock::now() < look) use();
    scanned = NumaScans() >= enough;
  }
  use();
  return scanned;
}

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_NUMA_SCANS_H_
