// The main() of every test binary: the deadlock detector is armed, --seed is understood, and a
// failure says how to get the same random numbers again.

#include <absl/synchronization/mutex.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "tests/support/seed.h"

namespace underfoot::testing {
namespace {

class SeedPrinter : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::printf("replay with --seed=%" PRIu64 "\n", Seed());
    std::fflush(stdout);
  }
};

// Takes "--seed=N" or "--seed N" out of the arguments, as gtest does with its own flags.
std::optional<std::string_view> TakeSeedFlag(int* argc, char** argv) {
  constexpr std::string_view kFlag = "--seed";
  std::optional<std::string_view> text;
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == kFlag && i + 1 < *argc) {
      text = argv[++i];
    } else if (argument.starts_with("--seed=")) {
      text = argument.substr(kFlag.size() + 1);
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  return text;
}

bool TakeSeed(int* argc, char** argv) {
  std::optional<std::string_view> text = TakeSeedFlag(argc, argv);
  if (const char* environment = std::getenv("UNDERFOOT_SEED");
      !text.has_value() && environment != nullptr && *environment != '\0') {
    text = environment;
  }
  if (!text.has_value()) return true;
  const std::optional<uint64_t> seed = ParseSeed(*text);
  if (!seed.has_value()) {
    std::fprintf(stderr, "seed '%.*s' is not a number; give --seed=42 or --seed=0x2a\n",
                 static_cast<int>(text->size()), text->data());
    return false;
  }
  SetSeed(*seed);
  return true;
}

}  // namespace
}  // namespace underfoot::testing

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kAbort);
  ::testing::InitGoogleMock(&argc, argv);
  if (!underfoot::testing::TakeSeed(&argc, argv)) return 2;
  // gtest owns it from here.
  ::testing::UnitTest::GetInstance()->listeners().Append(new underfoot::testing::SeedPrinter);
  return RUN_ALL_TESTS();
}
