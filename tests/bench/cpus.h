// Which CPUs this process may use, and threads pinned to them.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_BENCH_CPUS_H_
#define UNDERFOOT_TESTS_BENCH_CPUS_H_

#include <sched.h>

#include <vector>

namespace underfoot::bench {

// Those that were allowed when it was first asked.
const std::vector<int>& AllowedCpus();

// Pins the calling thread, and the threads that it makes meanwhile, for as long as it lives.
class Pinned {
 public:
  explicit Pinned(int cpu) : Pinned(std::vector<int>{cpu}) {}
  explicit Pinned(const std::vector<int>& cpus);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  cpu_set_t before_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_CPUS_H_
