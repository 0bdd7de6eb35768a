#include "tests/support/seed.h"

#include <charconv>
#include <random>
#include <system_error>

namespace underfoot::testing {
namespace {

uint64_t FreshSeed() {
  std::random_device device;
  return device();
}

uint64_t& SeedOfRun() {
  static uint64_t seed = FreshSeed();
  return seed;
}

}  // namespace

uint64_t Seed() { return SeedOfRun(); }

void SetSeed(uint64_t seed) { SeedOfRun() = seed; }

std::optional<uint64_t> ParseSeed(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t seed = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, seed, base);
  if (text.empty() || error != std::errc() || stopped != end) return std::nullopt;
  return seed;
}

}  // namespace underfoot::testing
