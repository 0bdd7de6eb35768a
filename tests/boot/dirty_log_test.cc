// The dirty log under real guests: no page that a guest records as written may be missing from the
// collections, whatever moves its memory meanwhile.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/boot/machine_fixture.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

uint64_t CountOf(const DirtyPages& pages) {
  uint64_t count = 0;
  for (const uint64_t word : pages.words) count += static_cast<uint64_t>(std::popcount(word));
  return count;
}

class DirtyLogTest : public MachineTest {
 protected:
  static RunOptions Options(Backing backing, uint32_t vcpus, const std::string& churn,
                            std::chrono::milliseconds period) {
    RunOptions options = MachineOptions("mixed", backing, vcpus, churn);
    options.dirty_log_period = period;
    return options;
  }
  DirtyLogStats Log() { return machine_->GetStats().dirty_log; }
  void WaitForCollections(uint64_t more) {
    const uint64_t before = Log().collections;
    ASSERT_TRUE(WaitUntil([&] { return Log().collections >= before + more; }));
  }
  uint64_t PagesWritten() {
    return GuestReports(machine_->memory().slots().front().hva, machine_->options().vcpus)
        .Total()
        .pages_written;
  }
  void FinishWell() {
    const absl::Status finished = machine_->Finish();
    EXPECT_TRUE(finished.ok()) << finished;
    const DirtyLogStats log = Log();
    EXPECT_EQ(log.missed, 0u) << machine_->dirty_log()->first_missed();
    EXPECT_EQ(log.failures, 0u);
    EXPECT_GT(log.checked, log.collections);
  }
};

class DirtyLogUnderChurn
    : public DirtyLogTest,
      public ::testing::WithParamInterface<std::tuple<const char*, Backing, uint32_t>> {};

TEST_P(DirtyLogUnderChurn, MissesNoWrite) {
  const auto& [churn, backing, vcpus] = GetParam();
  Start(Options(backing, vcpus, churn, std::chrono::milliseconds(10)));
  if (machine_ == nullptr) return;
  const auto slots_moved = [&] {
    const ChurnCounts counts = machine_->GetStats().churn.operations;
    const auto found = counts.find(ChurnKind::kMemslot);
    return found == counts.end() ? 0 : found->second;
  };
  ASSERT_TRUE(WaitUntil([&] {
    const DirtyLogStats log = Log();
    return log.collections >= 40 && slots_moved() >= 10 && log.checked > 2000 &&
           log.from_kvm > 1000 && log.from_memslots > 0 && log.from_ram > 0;
  }));
  FinishWell();
  const DirtyLogStats log = Log();
  EXPECT_GE(log.pages, log.needless);
  RecordProperty("checked", static_cast<int>(log.checked));
  RecordProperty("needless", static_cast<int>(log.needless));
}

std::string NameOf(const ::testing::TestParamInfo<DirtyLogUnderChurn::ParamType>& info) {
  return std::string(std::get<0>(info.param)) + "_" +
         std::string(BackingName(std::get<1>(info.param))) + "_" +
         std::to_string(std::get<2>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Machines, DirtyLogUnderChurn,
                         ::testing::Combine(::testing::Values("mixed", "storm"),
                                            ::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(1u, 4u)),
                         NameOf);

// With a long period nearly all that KVM has logged since the last collection is in its log when
// the memslot goes.
TEST_F(DirtyLogTest, IsNotLostWithAMemslot) {
  Start(Options(Backing::kAnon, 2, "memslot:100/s", std::chrono::milliseconds(200)));
  if (machine_ == nullptr) return;
  ASSERT_NO_FATAL_FAILURE(WaitForCollections(5));
  EXPECT_TRUE(WaitUntil([&] { return Log().from_ram > 100; }))
      << "no pages have left KVM's log with their slot";
  FinishWell();
}

TEST_F(DirtyLogTest, OfAnOwnCollectionHasWhatWasWrittenBefore) {
  Start(Options(Backing::kMemfd, 1, "off", std::chrono::milliseconds(0)));
  if (machine_ == nullptr) return;
  for (int i = 0; i < 3; ++i) {
    const uint64_t before = PagesWritten();
    ASSERT_TRUE(WaitUntil([&] { return PagesWritten() > before + 500; }));
    const absl::Status collected = machine_->dirty_log()->Collect();
    ASSERT_TRUE(collected.ok()) << collected;
  }
  EXPECT_EQ(Log().collections, 3u);
  FinishWell();
}

TEST_F(DirtyLogTest, IsTakenOnceAndAgainWhenItIsGivenBack) {
  Start(Options(Backing::kAnon, 1, "off", std::chrono::milliseconds(0)));
  if (machine_ == nullptr) return;
  MachineControl control(*machine_);
  ASSERT_TRUE(WaitUntil([&] { return PagesWritten() > 500; }));
  ASSERT_TRUE(machine_->dirty_log()->Collect().ok());
  const absl::StatusOr<DirtyInfo> shown = control.GetDirty();
  ASSERT_TRUE(shown.ok());
  EXPECT_EQ(shown->collections, 1u);
  uint64_t waiting = 0;
  for (const DirtySlot& slot : shown->slots) waiting += slot.waiting;
  const absl::StatusOr<DirtyPages> taken = control.TakeDirty();
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->collections, 1u);
  EXPECT_EQ(CountOf(*taken), waiting);
  EXPECT_GT(waiting, 100u);
  EXPECT_EQ(CountOf(*control.TakeDirty()), 0u);
  control.GiveBackDirty(*taken);
  EXPECT_EQ(control.TakeDirty()->words, taken->words);
  EXPECT_EQ(Log().given_back, waiting);
  EXPECT_EQ(Log().taken, 2 * waiting);
  FinishWell();
}

TEST_F(DirtyLogTest, IsRefusedForGuestsThatRecordNoWrites) {
  const auto why = [](const RunOptions& options) {
    const absl::Status status =
        Machine::Create(options, [](unsigned, std::string_view) {}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  RunOptions options = Options(Backing::kAnon, 1, "off", std::chrono::milliseconds(10));
  for (const char* guest : {"hello", "shared"}) {
    options.guest = guest;
    EXPECT_THAT(why(options), HasSubstr("records no writes"));
  }
  options.guest = "stamp";
  options.memory_bytes = uint64_t{4} << 30;
  EXPECT_THAT(why(options), HasSubstr("at most 3088 MiB"));
  options.memory_bytes = uint64_t{48} << 20;
  options.dirty_log_period = std::chrono::milliseconds(-1);
  EXPECT_THAT(why(options), HasSubstr("negative"));
}

TEST_F(DirtyLogTest, OfAMachineWithoutOneIsAnErrorThatNamesTheOption) {
  RunOptions options = Options(Backing::kAnon, 1, "off", std::chrono::milliseconds(0));
  options.dirty_log_period.reset();
  Start(options);
  if (machine_ == nullptr) return;
  MachineControl control(*machine_);
  EXPECT_TRUE(absl::IsFailedPrecondition(control.GetDirty().status()));
  EXPECT_THAT(std::string(control.TakeDirty().status().message()), HasSubstr("--dirty-log"));
  EXPECT_TRUE(machine_->Finish().ok());
  EXPECT_FALSE(Log().enabled);
}

}  // namespace
}  // namespace underfoot::testing
