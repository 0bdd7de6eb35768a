#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "vmm/churn/schedule.h"

namespace underfoot::testing {
namespace {

using Step = ChurnSchedule::Step;

std::vector<Step> FirstSteps(const ChurnRates& rates, uint64_t seed, ChurnLane lane, int count) {
  ChurnSchedule schedule(rates, seed, lane);
  std::vector<Step> steps;
  for (int i = 0; i < count; ++i) steps.push_back(schedule.Next());
  return steps;
}

// The numbers are those of std::mt19937_64, which the standard fixes.
TEST(ChurnScheduleTest, TheFirstStepsOfASeedAreTheseOnEveryMachine) {
  const std::vector<Step> steps =
      FirstSteps({{ChurnKind::kDiscard, 2}, {ChurnKind::kWp, 1}}, 5489, ChurnLane::kPages, 6);
  const std::vector<std::tuple<ChurnKind, int64_t, uint64_t>> expected = {
      {ChurnKind::kDiscard, 500, 14514284786278117030u},
      {ChurnKind::kDiscard, 1000, 4620546740167642908u},
      {ChurnKind::kWp, 1000, 13109570281517897720u},
      {ChurnKind::kDiscard, 1500, 17462938647148434322u},
      {ChurnKind::kDiscard, 2000, 355488278567739596u},
      {ChurnKind::kWp, 2000, 7469126240319926998u},
  };
  ASSERT_EQ(steps.size(), expected.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(std::tuple(steps[i].kind, absl::ToInt64Milliseconds(steps[i].due), steps[i].random),
              expected[i])
        << "step " << i;
  }
}

TEST(ChurnScheduleTest, ASeedIsAScheduleAndAnotherSeedIsAnother) {
  const ChurnRates rates = {{ChurnKind::kDiscard, 700}, {ChurnKind::kProtect, 30}};
  const auto one = FirstSteps(rates, 7, ChurnLane::kPages, 500);
  const auto same = FirstSteps(rates, 7, ChurnLane::kPages, 500);
  const auto other = FirstSteps(rates, 8, ChurnLane::kPages, 500);
  size_t differences = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].kind, same[i].kind);
    EXPECT_EQ(one[i].due, same[i].due);
    EXPECT_EQ(one[i].random, same[i].random);
    differences += one[i].random != other[i].random;
  }
  EXPECT_GT(differences, 490u);
}

TEST(ChurnScheduleTest, EachKindComesAtItsRateAndNeverGoesBackInTime) {
  const ChurnRates rates = {
      {ChurnKind::kDiscard, 700}, {ChurnKind::kProtect, 31.5}, {ChurnKind::kZap, 0}};
  ChurnSchedule schedule(rates, 1, ChurnLane::kPages);
  std::map<ChurnKind, int> counts;
  absl::Duration last;
  for (;;) {
    const Step step = schedule.Next();
    EXPECT_GE(step.due, last);
    last = step.due;
    if (step.due > absl::Seconds(10)) break;
    ++counts[step.kind];
  }
  EXPECT_NEAR(counts[ChurnKind::kDiscard], 7000, 1);
  EXPECT_NEAR(counts[ChurnKind::kProtect], 315, 1);
  EXPECT_EQ(counts.size(), 2u);
}

TEST(ChurnScheduleTest, ALaneHasItsKindsOnly) {
  const ChurnRates rates = {{ChurnKind::kDiscard, 100}, {ChurnKind::kMemslot, 100}};
  for (const Step& step : FirstSteps(rates, 3, ChurnLane::kPages, 50)) {
    EXPECT_EQ(step.kind, ChurnKind::kDiscard);
  }
  for (const Step& step : FirstSteps(rates, 3, ChurnLane::kMemslots, 50)) {
    EXPECT_EQ(step.kind, ChurnKind::kMemslot);
  }
  EXPECT_TRUE(ChurnSchedule({{ChurnKind::kMemslot, 1}}, 3, ChurnLane::kPages).empty());
  EXPECT_TRUE(ChurnSchedule({{ChurnKind::kMemslot, 0}}, 3, ChurnLane::kMemslots).empty());
  EXPECT_TRUE(ChurnSchedule({}, 3, ChurnLane::kPages).empty());
}

}  // namespace
}  // namespace underfoot::testing
