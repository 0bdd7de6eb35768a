// A gate that threads wait at until another thread opens it. It opens once.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_BENCH_GATE_H_
#define UNDERFOOT_TESTS_BENCH_GATE_H_

#include <atomic>

#include "mmu/base/ordering.h"

namespace underfoot::bench {

class Gate {
 public:
  void Open() {
    open_.store(true, kRelease);
    open_.notify_all();
  }
  void Await() const { open_.wait(false, kAcquire); }

 private:
  std::atomic<bool> open_{false};
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_GATE_H_
