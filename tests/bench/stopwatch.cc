#include "tests/bench/stopwatch.h"

#include <time.h>

#include <algorithm>

namespace underfoot::bench {
namespace {

uint64_t StopTicks() {
  unsigned cpu = 0;
  const uint64_t ticks = __rdtscp(&cpu);
  _mm_lfence();
  return ticks;
}

uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

struct Calibration {
  double ns_per_tick = 1;
  uint64_t overhead_ticks = 0;
};

Calibration Calibrate() {
  constexpr uint64_t kSpanNs = 20'000'000;
  const uint64_t start_ns = MonotonicNs();
  const uint64_t start = __rdtsc();
  uint64_t now_ns = start_ns;
  while (now_ns < start_ns + kSpanNs) now_ns = MonotonicNs();
  Calibration calibration;
  calibration.ns_per_tick =
      static_cast<double>(now_ns - start_ns) / static_cast<double>(__rdtsc() - start);
  calibration.overhead_ticks = UINT64_MAX;
  for (int i = 0; i < 1000; ++i) {
    _mm_lfence();
    const uint64_t before = __rdtsc();
    _mm_lfence();
    calibration.overhead_ticks = std::min(calibration.overhead_ticks, StopTicks() - before);
  }
  return calibration;
}

}  // namespace

double Stopwatch::ElapsedNs() const {
  const uint64_t ticks = StopTicks() - start_;
  static const Calibration calibration = Calibrate();
  const uint64_t net = ticks - std::min(ticks, calibration.overhead_ticks);
  return static_cast<double>(net) * calibration.ns_per_tick;
}

}  // namespace underfoot::bench
