// Medians, tails and spreads of samples. There is no mean, because one preempted round would
// dominate it.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_TESTS_BENCH_STATISTICS_H_
#define UNDERFOOT_TESTS_BENCH_STATISTICS_H_

#include <cstddef>
#include <vector>

namespace underfoot::bench {

struct Summary {
  size_t samples = 0;
  double median = 0;
  double p99 = 0;
  double max = 0;
};

// Half of what was measured lies between low and high.
struct Spread {
  double low = 0;
  double median = 0;
  double high = 0;
};

// The smallest sample that at least `share` of all samples do not exceed. 0 when there is none.
double Quantile(std::vector<double> samples, double share);

Summary Summarize(const std::vector<double>& samples);
Spread SpreadOf(const std::vector<double>& samples);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_STATISTICS_H_
