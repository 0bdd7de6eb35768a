#include "tests/bench/statistics.h"

#include <algorithm>
#include <cmath>

namespace underfoot::bench {
namespace {

double QuantileOfSorted(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(sorted.size()));
  const size_t index = rank < 1 ? 0 : static_cast<size_t>(rank) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

}  // namespace

double Quantile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  return QuantileOfSorted(samples, share);
}

Summary Summarize(const std::vector<double>& samples) {
  std::vector<double> sorted = samples;
  std::sort(sorted.begin(), sorted.end());
  return {.samples = sorted.size(),
          .median = QuantileOfSorted(sorted, 0.5),
          .p99 = QuantileOfSorted(sorted, 0.99),
          .max = sorted.empty() ? 0 : sorted.back()};
}

Spread SpreadOf(const std::vector<double>& samples) {
  std::vector<double> sorted = samples;
  std::sort(sorted.begin(), sorted.end());
  return {.low = QuantileOfSorted(sorted, 0.25),
          .median = QuantileOfSorted(sorted, 0.5),
          .high = QuantileOfSorted(sorted, 0.75)};
}

}  // namespace underfoot::bench
