#include "tests/bench/cpus.h"

#include "vmm/base/cpus.h"

namespace underfoot::bench {

const std::vector<int>& AllowedCpus() {
  static const std::vector<int> cpus = underfoot::AllowedCpus();
  return cpus;
}

// A pin that the host refuses costs precision and not correctness: it is not an error.
Pinned::Pinned(const std::vector<int>& cpus) {
  CPU_ZERO(&before_);
  static_cast<void>(sched_getaffinity(0, sizeof(before_), &before_));
  PinThisThread(cpus);
}

Pinned::~Pinned() { static_cast<void>(sched_setaffinity(0, sizeof(before_), &before_)); }

}  // namespace underfoot::bench
