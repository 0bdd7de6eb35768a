// How much of the time of this process's CPUs went to others while it was measured: to other programs,
// to kernel threads and interrupts, and to other machines on the same host (steal). The kernel counts busy
// time in ticks and a process's own exactly, so a share of a few percent is lost in the difference.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_
#define UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_

#include <istream>
#include <optional>
#include <span>

namespace underfoot::bench {

// Seconds since some moment in the past.
struct CpuSeconds {
  double all = 0;   // of the CPUs, idle or not
  double busy = 0;  // of the CPUs, without those that were idle
  double own = 0;   // of this process and of the children that it has waited for

  // Of the CPUs that this process may use. nullopt: this host does not say it.
  static std::optional<CpuSeconds> Now();
};

// What /proc/stat has of `cpus` (proc_stat(5)), in ticks of `tick_s` seconds. nullopt: it does not have
// a line with all fields for each.
std::optional<CpuSeconds> CpuSecondsIn(std::istream& proc_stat, std::span<const int> cpus,
                                       double tick_s);

// From 0 to 1. nullopt: one of them is, or no time has passed.
std::optional<double> OthersShare(const std::optional<CpuSeconds>& before,
                                  const std::optional<CpuSeconds>& after);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_
