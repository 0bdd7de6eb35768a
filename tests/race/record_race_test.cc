// Two machines that are given one new file for their records, while one of them is refused. Both orders
// of the steps: open, lock, remove (vmm/churn/script.h).

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "mmu/base/sync_point.h"
#include "tests/control/scratch.h"
#include "vmm/churn/script.h"

namespace underfoot::testing {
namespace {

class RecordRaceTest : public ::testing::Test {
 protected:
  void TearDown() override { ClearSyncPoints(); }

  absl::StatusOr<ScriptWriter> Open() {
    return ScriptWriter::Open(path_, {.memory_bytes = uint64_t{64} << 20});
  }
  // As Open. `between` runs when the file is open and not yet locked.
  absl::StatusOr<ScriptWriter> OpenAround(std::function<void()> between) {
    SetSyncPoint("record-opened", [&between] {
      if (const auto once = std::exchange(between, nullptr)) once();
    });
    absl::StatusOr<ScriptWriter> opened = Open();
    ClearSyncPoints();  // of `between`
    return opened;
  }
  std::string Content() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  Scratch scratch_;
  const std::string path_ = scratch_ / "record";
};

// The refused one has created the file.
TEST_F(RecordRaceTest, ARefusedRunLeavesTheFileThatAnotherOneHasLockedFirst) {
  std::optional<absl::StatusOr<ScriptWriter>> other;
  EXPECT_FALSE(OpenAround([&] { other.emplace(Open()); }).ok());
  ASSERT_TRUE(other->ok()) << other->status();
  ASSERT_TRUE((*other)->Begin().ok());
  EXPECT_NE(Content(), "") << "the file of the run that goes on is gone";
}

// The refused one has created and locked the file, and removes it while the other one has it open.
TEST_F(RecordRaceTest, ARunDoesNotRecordIntoAFileThatARefusedOneHasRemoved) {
  std::optional<absl::StatusOr<ScriptWriter>> refused(Open());
  ASSERT_TRUE(refused->ok()) << refused->status();
  const absl::StatusOr<ScriptWriter> opened = OpenAround([&] { refused.reset(); });
  EXPECT_FALSE(opened.ok());
  EXPECT_TRUE(Open().ok()) << "the next try";
}

}  // namespace
}  // namespace underfoot::testing
