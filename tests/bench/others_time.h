// How much of the CPUs' time this machine gave to others while this process and the children that it
// has waited for were measured: other programs, and other machines on the same host (steal).
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_
#define UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_

#include <istream>

namespace underfoot::bench {

// Seconds since some moment in the past.
struct CpuSeconds {
  double all = 0;   // of all CPUs, idle or not
  double busy = 0;  // of all CPUs, without those that were idle
  double own = 0;   // of this process and its children

  static CpuSeconds Now();
};

// The fields of the line "cpu" of /proc/stat (proc_stat(5)), in ticks of `tick_s` seconds. Zeroes if
// it begins with something else.
CpuSeconds CpuSecondsIn(std::istream& proc_stat, double tick_s);

// From 0 to 1. What the kernel does on behalf of a process in threads of its own counts as others'.
double OthersShare(const CpuSeconds& before, const CpuSeconds& after);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_OTHERS_TIME_H_
