// Random operations during which memory runs out at a random step, compared with the model like the
// others. Such an operation has changed nothing, or has gone as far as the model predicts, and it
// leaves nothing behind that it had taken.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/table_memory.h"
#include "tests/oracle/run.h"
#include "tests/support/no_memory.h"
#include "tests/support/seed.h"

namespace underfoot::oracle {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kOperations = 60'000;
#else
constexpr uint64_t kOperations = 300'000;
#endif

class FailingNew final : public Shortage {
 public:
  FailingNew() {
    KeepPoolFilled();
    SetSyncPoint("table-memory", [] { testing::NoMemory::Allocate(); });
  }
  ~FailingNew() override { ClearSyncPoints(); }
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;

  void Start(uint64_t successes) override { t_no_memory.emplace(successes); }
  bool End() override {
    const bool failed = t_no_memory->failures() != 0;
    t_pause.reset();
    t_no_memory.reset();
    return failed;
  }
  // The page source is not called while a call of it is running, so one level of pauses is enough.
  void Pause() override { t_pause.emplace(); }
  void Resume() override { t_pause.reset(); }

 private:
  // When the pool of tables allocates a chunk depends on when deferred calls give tables back, and
  // so on the scheduler. With more tables than a run uses at once, the pool allocates none.
  static void KeepPoolFilled() {
    std::array<void*, 4096> rooms;
    for (void*& room : rooms) room = table_memory::Allocate();
    for (void* room : rooms) table_memory::Free(room);
  }

  static thread_local std::optional<testing::NoMemory> t_no_memory;
  static thread_local std::optional<testing::NoMemory::Pause> t_pause;
};

thread_local std::optional<testing::NoMemory> FailingNew::t_no_memory;
thread_local std::optional<testing::NoMemory::Pause> FailingNew::t_pause;

// A shortage that never occurred proves nothing. Rare kinds, such as a map of a block, run out of
// memory a few times in 300,000 operations, so the run of one seed may have none of them. Further
// runs follow until each kind has occurred.
void ExpectShortagesOfEveryKind(unsigned threads, Comparisons compared, Shortage* shortage) {
  constexpr unsigned kMostRuns = 30;
  const auto missing = [&] {
    std::string names;
    for (const Kind kind : {Kind::kFault, Kind::kRefresh, Kind::kActivate, Kind::kClaim,
                            Kind::kBegin, Kind::kSplit, Kind::kMapBlock, Kind::kCreateSlot,
                            Kind::kDeleteSlot, Kind::kMoveSlot, Kind::kSetFlags, Kind::kCollect}) {
      if (compared.ran_out[static_cast<unsigned>(kind)] == 0)
        absl::StrAppend(&names, NameOf(kind), " ");
    }
    return names;
  };
  for (unsigned run = 1; run < kMostRuns && !missing().empty(); ++run) {
    const Report more = RunThreads(kOperations, threads, testing::Seed() + run, shortage);
    ExpectGood(more);
    for (size_t i = 0; i < compared.ran_out.size(); ++i) {
      compared.ran_out[i] += more.compared.ran_out[i];
    }
  }
  EXPECT_EQ(missing(), "");
}

TEST(OracleShortageTest, OneThreadEqualsTheModelAndReplaysFromItsSeed) {
  FailingNew shortage;
  const uint64_t seed = testing::Seed();
  const Report run = RunThreads(kOperations, 1, seed, &shortage);
  ExpectGood(run);
  const Report again = RunThreads(kOperations, 1, seed, &shortage);
  EXPECT_EQ(run.compared.outcomes, again.compared.outcomes);
  EXPECT_EQ(run.compared.ran_out, again.compared.ran_out);
  ExpectShortagesOfEveryKind(1, run.compared, &shortage);
}

TEST(OracleShortageTest, ManyThreadsEqualTheModel) {
  FailingNew shortage;
  const Report run = RunThreads(kOperations, 3, testing::Seed(), &shortage);
  ExpectGood(run);
  ExpectShortagesOfEveryKind(3, run.compared, &shortage);
}

}  // namespace
}  // namespace underfoot::oracle
