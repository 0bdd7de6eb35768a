#include "tests/support/random.h"

#include <cstdio>
#include <cstdlib>

#include "tests/support/seed.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15;

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Random::Random(uint64_t stream) : Random(Seed(), stream) {}

// The stream is mixed before it meets the seed: seed 1 stream 0 is not seed 0 stream 1.
Random::Random(uint64_t seed, uint64_t stream)
    : state_(Mix(seed) ^ Mix(stream * kGoldenGamma + 1)) {}

uint64_t Random::Next() {
  state_ += kGoldenGamma;
  return Mix(state_);
}

uint64_t Random::Below(uint64_t bound) {
  if (bound == 0) {
    std::fputs("Random::Below(0): there is not a number below 0\n", stderr);
    std::abort();
  }
  // Rejects the incomplete last round, so that no residue is favoured.
  const uint64_t threshold = (0 - bound) % bound;
  for (;;) {
    const uint64_t drawn = Next();
    if (drawn >= threshold) return drawn % bound;
  }
}

uint64_t Random::Between(uint64_t low, uint64_t high) {
  const uint64_t span = high - low + 1;
  return span == 0 ? Next() : low + Below(span);
}

bool Random::Chance(uint64_t numerator, uint64_t denominator) {
  return Below(denominator) < numerator;
}

}  // namespace underfoot::testing
