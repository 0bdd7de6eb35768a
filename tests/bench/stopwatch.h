// Time in nanoseconds from the time stamp counter, fenced on both sides: for single operations of
// 50 ns as well as for loops.
//
// Thread safety: any thread. The counter is the same on all CPUs (constant_tsc).

#ifndef UNDERFOOT_TESTS_BENCH_STOPWATCH_H_
#define UNDERFOOT_TESTS_BENCH_STOPWATCH_H_

#include <x86intrin.h>

#include <cstdint>

namespace underfoot::bench {

class Stopwatch {
 public:
  Stopwatch() {
    _mm_lfence();
    start_ = __rdtsc();
    _mm_lfence();
  }

  // Since construction, less what measuring nothing would show.
  double ElapsedNs() const;

 private:
  uint64_t start_;
};

// Makes the compiler produce `value`, and forget what it knows of memory.
template <class T>
inline void KeepAlive(const T& value) {
  __asm__ __volatile__("" : : "r"(value) : "memory");
}

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_STOPWATCH_H_
