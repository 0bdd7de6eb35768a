// The rules by which a refresh of a pfn cache decides whether an invalidation may have made its
// look-up stale. An invalidation that overlaps the cache marks it under every rule (the kernel's
// proposals of 2024 do so by `needs_invalidation`); these rules differ in what unrelated
// invalidations cost.
//
//   kCountOrSequence  retry if any invalidation is in flight after the look-up, or one has ended
//                     since before it: KVM's rule, mmu_notifier_retry_cache
//   kSequence         retry if the sequence moved, which every Begin and every End moves. Alone it
//                     does not notice a bracket that spans the whole look-up
//   kHull             look up when the hull of all ranges in flight does not cover the page: one
//                     minimum and one maximum, reset when none is in flight
//
// The precise set is mmu/in_flight_ranges.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_RETRY_RULES_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_RETRY_RULES_H_

#include <algorithm>
#include <cstdint>
#include <mutex>

#include "mmu/base/types.h"
#include "tests/bench/comparators/protected_word.h"

namespace underfoot::bench {

enum class RetryRule { kCountOrSequence, kSequence, kHull };

class CountedInvalidations {
 public:
  explicit CountedInvalidations(RetryRule rule) : rule_(rule) {}

  void Begin(HvaRange range) {
    const std::lock_guard lock(mutex_);
    hull_ = active_++ == 0
                ? range
                : HvaRange{std::min(hull_.begin, range.begin), std::max(hull_.end, range.end)};
    if (rule_ == RetryRule::kSequence) ++sequence_;
  }
  void End() {
    const std::lock_guard lock(mutex_);
    --active_;
    ++sequence_;
  }

  struct Refreshed {
    bool valid = false;  // false: given up
    uint64_t retries = 0;
  };
  // Calls `look_up()` until the rule accepts one, and gives up after `patience` retries.
  template <class LookUp>
  Refreshed Refresh(HvaRange page, uint64_t patience, const LookUp& look_up) {
    for (uint64_t retries = 0; retries < patience; ++retries) {
      uint64_t seen = 0;
      {
        const std::lock_guard lock(mutex_);
        seen = sequence_;
        if (rule_ == RetryRule::kHull && active_ != 0 && hull_.Overlaps(page)) {
          seen = kCovered;
        }
      }
      if (seen == kCovered) {
        look_up();  // as long as one: the kernel's loop sleeps or spins here
        continue;
      }
      look_up();
      const std::lock_guard lock(mutex_);
      if (Accepts(seen)) return {.valid = true, .retries = retries};
    }
    return {.valid = false, .retries = patience};
  }

 private:
  static constexpr uint64_t kCovered = UINT64_MAX;

  bool Accepts(uint64_t seen) const {
    switch (rule_) {
      case RetryRule::kCountOrSequence:
        return active_ == 0 && sequence_ == seen;
      case RetryRule::kSequence:
        return sequence_ == seen;
      case RetryRule::kHull:
        return true;  // only an overlapping invalidation could have marked the cache
    }
    return false;
  }

  const RetryRule rule_;
  SpinRwLock mutex_;
  uint64_t active_ = 0;
  uint64_t sequence_ = 0;
  HvaRange hull_{};
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_RETRY_RULES_H_
