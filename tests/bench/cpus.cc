#include "tests/bench/cpus.h"

namespace underfoot::bench {

const std::vector<int>& AllowedCpus() {
  static const std::vector<int> cpus = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> allowed;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return allowed;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) allowed.push_back(cpu);
    }
    return allowed;
  }();
  return cpus;
}

// A pin that the host refuses costs precision and not correctness: it is not an error.
Pinned::Pinned(int cpu) {
  CPU_ZERO(&before_);
  static_cast<void>(sched_getaffinity(0, sizeof(before_), &before_));
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  static_cast<void>(sched_setaffinity(0, sizeof(one), &one));
}

Pinned::~Pinned() { static_cast<void>(sched_setaffinity(0, sizeof(before_), &before_)); }

}  // namespace underfoot::bench
