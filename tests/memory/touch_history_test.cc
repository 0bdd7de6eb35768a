// Which periods a window of time takes in, and which pages it then counts.

#include "vmm/ageing/touch_history.h"

#include <gtest/gtest.h>

namespace underfoot {
namespace {

// Scans at 100, 200, ...: page n is touched in period n, from 1 on.
void ScanTimes(TouchHistory& history, uint32_t scans) {
  for (uint32_t n = 1; n <= scans; ++n) {
    history.Touch(n);
    history.Close(int64_t{100} * n);
  }
}

TEST(TouchHistoryTest, BeforeTheFirstScanTheOpenPeriodIsAllThereIs) {
  TouchHistory history(2, 7);
  history.Touch(1);
  for (const TouchHistory::Window& window : {history.Latest(), history.Since(0)}) {
    EXPECT_EQ(window.first, 1u);
    EXPECT_EQ(window.scans, 0u);
    EXPECT_EQ(window.begin_ns, 7);
    EXPECT_EQ(history.Touched(0, 2, window), 1u);
  }
}

TEST(TouchHistoryTest, TheLatestIsOneClosedPeriodAndTheOpenOne) {
  TouchHistory history(5, 0);
  ScanTimes(history, 3);
  const TouchHistory::Window latest = history.Latest();
  EXPECT_EQ(latest.first, 3u);
  EXPECT_EQ(latest.scans, 1u);
  EXPECT_EQ(latest.begin_ns, 200);
  EXPECT_FALSE(history.TouchedIn(2, latest));
  EXPECT_TRUE(history.TouchedIn(3, latest));
  EXPECT_FALSE(history.TouchedIn(4, latest));
  history.Touch(4);
  EXPECT_TRUE(history.TouchedIn(4, latest)) << "what the open period has is there too";
}

TEST(TouchHistoryTest, AWindowTakesInTheScansThatEndedInItAndNoOther) {
  TouchHistory history(6, 0);
  ScanTimes(history, 5);
  for (const auto& [from, first] :
       {std::pair{501, 6u}, std::pair{500, 5u}, std::pair{401, 5u}, std::pair{400, 4u},
        std::pair{301, 4u}, std::pair{1, 1u}, std::pair{-1000, 1u}}) {
    const TouchHistory::Window window = history.Since(from);
    EXPECT_EQ(window.first, first) << from;
    EXPECT_EQ(window.scans, 6 - first) << from;
    EXPECT_EQ(window.begin_ns, (first - 1) * 100) << from;
    EXPECT_EQ(history.Touched(0, 6, window), 6 - first) << from;
  }
}

TEST(TouchHistoryTest, OnlyTheLastTouchCounts) {
  TouchHistory history(1, 0);
  history.Touch(0);
  EXPECT_TRUE(history.TouchedNow(0));
  history.Close(100);
  EXPECT_FALSE(history.TouchedNow(0));
  history.Touch(0);
  history.Close(200);
  history.Close(300);
  EXPECT_EQ(history.Touched(0, 1, history.Since(300)), 0u);
  EXPECT_EQ(history.Touched(0, 1, history.Since(200)), 1u);
}

TEST(TouchHistoryTest, AWindowReachesNoFurtherBackThanTimesAreKept) {
  constexpr uint32_t kScans = TouchHistory::kScansKept + 10;
  TouchHistory history(1, 0);
  for (uint32_t n = 1; n <= kScans; ++n) history.Close(int64_t{100} * n);
  const TouchHistory::Window window = history.Since(0);
  EXPECT_EQ(window.scans, TouchHistory::kScansKept - 1);
  EXPECT_EQ(window.first, kScans - TouchHistory::kScansKept + 2);
  EXPECT_EQ(window.begin_ns, int64_t{100} * (window.first - 1));
}

}  // namespace
}  // namespace underfoot
