// The corpus of the fuzzer of virtio devices (virtio_fuzzer.cc), and inputs mutated from it.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/virtio_target.h"
#include "tests/support/random.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

using Bytes = std::vector<uint8_t>;

class VirtioFuzzTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status ready = VirtioTargetReady();
    if (absl::IsPermissionDenied(ready)) UNDERFOOT_SKIP(std::string(ready.message()));
    ASSERT_TRUE(ready.ok()) << ready;
    for (const auto& file : std::filesystem::directory_iterator(UNDERFOOT_VIRTIO_CORPUS)) {
      std::ifstream in(file.path(), std::ios::binary);
      corpus_.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    ASSERT_GT(corpus_.size(), 5u);
  }

  std::vector<Bytes> corpus_;
};

TEST_F(VirtioFuzzTest, TheCorpusIsSurvivedAndReachesBothSidesOfTheRules) {
  VirtioTargetCounts total;
  // The driver does not wait for the device, so one pass may not be enough.
  EXPECT_TRUE(WaitUntil([&] {
    for (const Bytes& bytes : corpus_) {
      const VirtioTargetCounts counts = RunVirtioTarget(bytes);
      total.requests += counts.requests;
      total.needed_resets += counts.needed_resets;
    }
    return total.requests > 0 && total.needed_resets > 0;
  })) << total.requests
      << " requests, " << total.needed_resets << " resets";
}

TEST_F(VirtioFuzzTest, MutationsOfTheCorpusAreSurvived) {
  Random random;
  for (int n = 0; n < 500; ++n) {
    Bytes bytes = corpus_[random.Below(corpus_.size())];
    // One in four goes on with a piece of another input.
    if (const Bytes& other = corpus_[random.Below(corpus_.size())]; random.Below(4) == 0) {
      bytes.resize(random.Below(bytes.size() + 1));
      bytes.insert(bytes.end(), other.begin(), other.end());
    }
    for (uint64_t changes = random.Below(8); changes != 0 && !bytes.empty(); --changes) {
      bytes[random.Below(bytes.size())] = static_cast<uint8_t>(random.Next());
    }
    static_cast<void>(RunVirtioTarget(bytes));
  }
}

}  // namespace
}  // namespace underfoot::testing
