// The schemes of reader protection that ours is compared with keep what they promise: after an
// invalidation no reader uses the old translation. A comparator that does not would be measured as
// cheaper than it is.

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "mmu/base/rcu.h"
#include "tests/bench/comparators/protected_word.h"
#include "tests/bench/comparators/qsbr_word.h"
#include "tests/bench/comparators/srcu_rseq.h"
#include "tests/bench/cpus.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kThere = 1;
constexpr uint64_t kGone = 2;

template <class Protected>
struct WhyNot {
  static std::string Reason() { return ""; }
};
template <>
struct WhyNot<SrcuRseqWord> {
  static std::string Reason() { return SrcuRseq::UnavailableReason(); }
};

template <class Protected>
class ReaderSchemesTest : public testing::Test {};

using Schemes =
    testing::Types<LockedWord<SpinRwLock>, LockedWord<std::shared_mutex>, LockedWord<AbslRwLock>,
                   RcuWord, QsbrWord, SlotWord, EvenOddWord, AsymmetricWord, SrcuRseqWord>;
TYPED_TEST_SUITE(ReaderSchemesTest, Schemes);

// The data is overwritten when the invalidation has returned, as a page is that was given back.
TYPED_TEST(ReaderSchemesTest, NoReaderSeesWhatIsWrittenAfterAnInvalidation) {
  if (const std::string reason = WhyNot<TypeParam>::Reason(); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  constexpr int kInvalidations = 2'000;
  rcu::StartWorker();
  TypeParam word;
  word.word().SetData(kThere);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> valid{0};
  std::atomic<uint64_t> wrong{0};
  std::thread reader([&] {
    while (!stop.load(kAcquire)) {
      const std::optional<uint64_t> value = word.Read(0);
      if (!value.has_value()) continue;
      (*value == kThere ? valid : wrong).fetch_add(1, kRelaxed);
    }
  });
  for (int i = 0; i < kInvalidations; ++i) {
    const uint64_t before = valid.load(kRelaxed);
    while (valid.load(kRelaxed) == before) sched_yield();
    word.Invalidate();
    word.word().SetData(kGone);
    word.word().SetData(kThere);
    word.Validate();
  }
  stop.store(true, kRelease);
  reader.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_GE(valid.load(), uint64_t{kInvalidations});
}

class SrcuRseqTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = SrcuRseq::UnavailableReason(); !reason.empty()) {
      GTEST_SKIP() << reason;
    }
  }
};

// A Synchronize that does not wait has all the time that it needs to return.
TEST_F(SrcuRseqTest, SynchronizeWaitsForTheReaderThatIsInside) {
  for (int repetition = 0; repetition < 3; ++repetition) {  // in each phase
    SrcuRseq srcu;
    for (int i = 0; i < repetition; ++i) srcu.Synchronize();
    std::atomic<bool> called{false};
    std::atomic<bool> returned{false};
    const uint64_t phase = srcu.Enter();
    std::thread invalidator([&] {
      called.store(true, kRelease);
      srcu.Synchronize();
      returned.store(true, kRelease);
    });
    while (!called.load(kAcquire)) sched_yield();
    for (int i = 0; i < 10'000 && !returned.load(kAcquire); ++i) sched_yield();
    EXPECT_FALSE(returned.load(kAcquire));
    srcu.Leave(phase);
    invalidator.join();
  }
}

TEST_F(SrcuRseqTest, AReaderMayLeaveOnAnotherCpu) {
  if (AllowedCpus().size() < 2) GTEST_SKIP() << "it takes two CPUs";
  SrcuRseq srcu;
  uint64_t phase = 0;
  {
    const Pinned pinned(AllowedCpus().front());
    phase = srcu.Enter();
  }
  const Pinned pinned(AllowedCpus().back());
  srcu.Leave(phase);
  srcu.Synchronize();  // returns
  EXPECT_EQ(srcu.Entries(), 1u);
}

// Each Synchronize restarts the sequences that run, and the threads take the CPUs from one another.
TEST_F(SrcuRseqTest, NoIncrementIsLostOrMadeTwice) {
  SrcuRseq srcu;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> entries{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      uint64_t own = 0;
      for (; !stop.load(kAcquire); ++own) {
        const uint64_t phase = srcu.Enter();
        if (own % 1024 == 0) sched_yield();
        srcu.Leave(phase);
      }
      entries.fetch_add(own, kRelaxed);
    });
  }
  while (srcu.Entries() == 0) sched_yield();
  for (int i = 0; i < 500; ++i) srcu.Synchronize();
  stop.store(true, kRelease);
  for (std::thread& reader : readers) reader.join();
  srcu.Synchronize();
  EXPECT_EQ(srcu.Entries(), entries.load());
}

}  // namespace
}  // namespace underfoot::bench
