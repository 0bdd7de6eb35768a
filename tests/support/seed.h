// The one seed of a test run: --seed=N, else UNDERFOOT_SEED, else a fresh one that is printed with
// every failure, so that a failing random test can be replayed.
//
// Thread safety: SetSeed() belongs to main(), before any test runs; Seed() may be called anywhere.

#ifndef UNDERFOOT_TESTS_SUPPORT_SEED_H_
#define UNDERFOOT_TESTS_SUPPORT_SEED_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace underfoot::testing {

uint64_t Seed();
void SetSeed(uint64_t seed);

// Decimal, or hexadecimal after 0x; nothing when `text` is anything else.
std::optional<uint64_t> ParseSeed(std::string_view text);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_SEED_H_
