// A description of the machine on which the figures were measured.

#ifndef UNDERFOOT_TESTS_BENCH_MACHINE_INFO_H_
#define UNDERFOOT_TESTS_BENCH_MACHINE_INFO_H_

#include <string>

namespace underfoot::bench {

struct MachineInfo {
  std::string cpu;
  unsigned cpus = 0;
  std::string kernel;
  std::string kvm;  // the vendor module, or why there is none
  std::string compiler;
  double load = 0;  // of the last minute: above 0.5 the spreads grow

  static MachineInfo OfThis();
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_MACHINE_INFO_H_
