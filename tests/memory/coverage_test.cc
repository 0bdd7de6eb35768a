#include "vmm/coverage/coverage.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>

namespace underfoot {
namespace {

constexpr HvaRange kPage = {Hva{0x1000}, Hva{0x2000}};
constexpr HvaRange kBoth = {Hva{0x1000}, Hva{0x3000}};
constexpr HvaRange kElsewhere = {Hva{0x8000}, Hva{0x9000}};

class CoverageTest : public ::testing::Test {
 protected:
  CoverageTest() {
    coverage_.SetSource(EventSource::kHook, true);
    coverage_.SetSource(EventSource::kUffd, true);
  }

  void Tell(EventSource source, HvaRange range, int64_t lag_ns = 0, int32_t tid = 0) {
    HostEvent event;
    event.source = source;
    event.range = range;
    event.tid = tid;
    event.happened_ns = MonotonicNs();
    event.taken_ns = event.happened_ns + lag_ns;
    coverage_.Report(event);
  }
  void Do(ChurnKind kind, int times) {
    for (int i = 0; i < times; ++i) const Coverage::Operation operation(coverage_, kind, kPage);
  }
  CoverageRow RowOf(ChurnKind kind) const {
    return coverage_.Matrix().rows[static_cast<size_t>(kind)];
  }

  Coverage coverage_;
};

TEST_F(CoverageTest, AnEventBelongsToTheOperationOfItsRangeAndTime) {
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
    const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kElsewhere);
    Tell(EventSource::kHook, kPage, 3000);
    Tell(EventSource::kHook, kElsewhere);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].lag_us.max, 3U);
  EXPECT_EQ(RowOf(ChurnKind::kProtect).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).result, CoverageResult::kSeen);
  EXPECT_EQ(coverage_.Matrix().others[0], 0U);
}

TEST_F(CoverageTest, OfTwoOperationsTheLatestIsTheCause) {
  const Coverage::Operation first(coverage_, ChurnKind::kZap, kPage);
  const Coverage::Operation second(coverage_, ChurnKind::kDiscard, kPage);
  Tell(EventSource::kHook, kPage);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kZap).cells[0].events, 0U);
}

TEST_F(CoverageTest, TheOperationOfTheThreadThatDidItIsTheCause) {
  std::optional<Coverage::Operation> zap;
  std::thread([&] { zap.emplace(coverage_, ChurnKind::kZap, kPage); }).join();
  {
    const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kBoth);
    std::optional<Coverage::Operation> discard;
    std::thread([&] { discard.emplace(coverage_, ChurnKind::kDiscard, kPage); }).join();
    Tell(EventSource::kHook, kPage, 0, ThisThread());
  }
  EXPECT_EQ(RowOf(ChurnKind::kProtect).cells[0].events, 1U);
}

TEST_F(CoverageTest, ElseTheOperationOfJustThisRangeIsTheCause) {
  const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  const Coverage::Operation protect(coverage_, ChurnKind::kProtect, kBoth);
  Tell(EventSource::kHook, kPage);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
}

TEST_F(CoverageTest, AnOperationThatASourceCannotSeeIsNotItsCause) {
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
    const Coverage::Operation memslot(coverage_, ChurnKind::kMemslot, kPage);
    Tell(EventSource::kHook, kPage);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
  EXPECT_EQ(RowOf(ChurnKind::kMemslot).result, CoverageResult::kNothing);
}

TEST_F(CoverageTest, AnEventBeforeTheOperationIsAnothers) {
  HostEvent before;
  before.range = kPage;
  before.happened_ns = MonotonicNs();
  const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  coverage_.Report(before);
  EXPECT_EQ(coverage_.Matrix().others[0], 1U);
}

TEST_F(CoverageTest, AnOperationThatASourceMissedIsMissedWhoeverElseSawIt) {
  Do(ChurnKind::kForeign, 10);
  {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kElsewhere);
    Tell(EventSource::kUffd, kElsewhere);
  }
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).result, CoverageResult::kMissed);
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kIdle);
}

TEST_F(CoverageTest, NothingIsExpectedOfASourceThatIsOff) {
  coverage_.SetSource(EventSource::kUffd, false);
  Do(ChurnKind::kForeign, 10);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kUnobservable);
  coverage_.SetSource(EventSource::kKernel, true);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
}

TEST_F(CoverageTest, OfAFewOperationsOnlyAHookMustHaveSeenOne) {
  Do(ChurnKind::kForeign, 9);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kTooFew);
  Do(ChurnKind::kForeign, 1);
  EXPECT_EQ(RowOf(ChurnKind::kForeign).result, CoverageResult::kMissed);
  Do(ChurnKind::kWp, 1);
  EXPECT_EQ(RowOf(ChurnKind::kWp).result, CoverageResult::kMissed);
}

TEST_F(CoverageTest, ManyOperationsAreRememberedWithinABound) {
  for (int i = 0; i < 20000; ++i) {
    const Coverage::Operation discard(coverage_, ChurnKind::kDiscard, kPage);
  }
  {
    const Coverage::Operation last(coverage_, ChurnKind::kDiscard, kPage);
    Tell(EventSource::kHook, kPage);
  }
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).operations, 20001U);
  EXPECT_EQ(RowOf(ChurnKind::kDiscard).cells[0].events, 1U);
}

}  // namespace
}  // namespace underfoot
