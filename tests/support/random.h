// Random numbers for tests that replay: the same seed and stream give the same numbers with every
// compiler and standard library, which std::uniform_int_distribution does not promise.
//
// Thread safety: one Random per thread; give each thread a stream of its own.

#ifndef UNDERFOOT_TESTS_SUPPORT_RANDOM_H_
#define UNDERFOOT_TESTS_SUPPORT_RANDOM_H_

#include <cstddef>
#include <cstdint>

namespace underfoot::testing {

// SplitMix64: one word of state, passes the usual statistical batteries.
class Random {
 public:
  // Of the run's seed (tests/support/seed.h). Different streams are independent.
  explicit Random(uint64_t stream = 0);
  Random(uint64_t seed, uint64_t stream);

  uint64_t Next();
  // Uniform in [0, bound); `bound` must not be 0.
  uint64_t Below(uint64_t bound);
  // Uniform in [low, high], both included.
  uint64_t Between(uint64_t low, uint64_t high);
  // True `numerator` times in `denominator`.
  bool Chance(uint64_t numerator, uint64_t denominator);

  template <class Container>
  auto& Pick(Container& container) {
    return container[static_cast<size_t>(Below(container.size()))];
  }

 private:
  uint64_t state_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_RANDOM_H_
