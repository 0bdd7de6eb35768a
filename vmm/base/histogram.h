// A latency histogram with log2 buckets in microseconds.
//
// Bucket i counts the values v with 2^(i-1) < v <= 2^i; bucket 0 counts the values 0 and 1. The
// last bucket counts all larger values. The percentiles of a snapshot are upper bounds: "p99 <= 64
// us".
//
// Thread safety: any number of threads may record to and read one LatencyHistogram at the same
// time. LatencySnapshot is a value.

#ifndef UNDERFOOT_VMM_BASE_HISTOGRAM_H_
#define UNDERFOOT_VMM_BASE_HISTOGRAM_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "mmu/base/ordering.h"

namespace underfoot {

struct LatencyBucket {
  uint64_t le_us = 0;  // inclusive upper bound
  uint64_t count = 0;  // of this bucket alone, not cumulative

  friend bool operator==(const LatencyBucket&, const LatencyBucket&) = default;
};

struct LatencySnapshot {
  uint64_t count = 0;
  uint64_t sum_us = 0;
  uint64_t p50 = 0;  // microseconds, an upper bound
  uint64_t p99 = 0;
  uint64_t max = 0;                    // exact
  std::vector<LatencyBucket> buckets;  // from 1 us up to the last bucket that is not empty

  friend bool operator==(const LatencySnapshot&, const LatencySnapshot&) = default;
};

class LatencyHistogram {
 public:
  static constexpr size_t kBuckets = 40;  // 2^39 us: six days

  static constexpr size_t BucketOf(uint64_t us) {
    if (us <= 1) return 0;
    return std::min<size_t>(static_cast<size_t>(std::bit_width(us - 1)), kBuckets - 1);
  }
  static constexpr uint64_t UpperBoundOf(size_t bucket) { return uint64_t{1} << bucket; }

  // Relaxed: each counter is independent and publishes no other data. A reader may see one of these
  // updates without the others; Snapshot compensates for that by deriving the count from the
  // buckets.
  void Record(uint64_t us) {
    counts_[BucketOf(us)].fetch_add(1, kRelaxed);
    sum_us_.fetch_add(us, kRelaxed);
    uint64_t seen = max_us_.load(kRelaxed);
    while (seen < us && !max_us_.compare_exchange_weak(seen, us, kRelaxed, kRelaxed)) {
    }
  }

  [[nodiscard]] LatencySnapshot Snapshot() const;

 private:
  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
  std::atomic<uint64_t> sum_us_{0};
  std::atomic<uint64_t> max_us_{0};
};

inline LatencySnapshot LatencyHistogram::Snapshot() const {
  std::array<uint64_t, kBuckets> counts{};
  LatencySnapshot snapshot;
  size_t used = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    counts[i] = counts_[i].load(kRelaxed);
    snapshot.count += counts[i];
    if (counts[i] != 0) used = i + 1;
  }
  snapshot.sum_us = sum_us_.load(kRelaxed);
  snapshot.max = max_us_.load(kRelaxed);

  const auto percentile = [&](uint64_t percent) -> uint64_t {
    // The smallest bucket bound such that at least `percent` of all values are not above it.
    const uint64_t wanted = (snapshot.count * percent + 99) / 100;
    uint64_t below = 0;
    for (size_t i = 0; i < used; ++i) {
      below += counts[i];
      if (below >= wanted) return std::min(UpperBoundOf(i), snapshot.max);
    }
    return 0;
  };
  snapshot.p50 = percentile(50);
  snapshot.p99 = percentile(99);
  for (size_t i = 0; i < used; ++i) snapshot.buckets.push_back({UpperBoundOf(i), counts[i]});
  return snapshot;
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_HISTOGRAM_H_
