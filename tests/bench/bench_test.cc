// Every benchmark runs for a moment, so that none rots; and the arithmetic behind the figures.

#include "tests/bench/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "mmu/base/rcu.h"
#include "nlohmann/json.hpp"
#include "tests/bench/caused_records.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"
#include "tests/bench/numa_scans.h"
#include "tests/bench/others_time.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Statistics, AQuantileIsASampleThatWasSeen) {
  const std::vector<double> samples = {5, 1, 4, 2, 3};
  EXPECT_EQ(Quantile(samples, 0.5), 3);
  EXPECT_EQ(Quantile(samples, 0.99), 5);
  EXPECT_EQ(Quantile(samples, 0.0), 1);
  EXPECT_EQ(Quantile({}, 0.5), 0);
}

TEST(Statistics, OneStrayRoundMovesNeitherMedianNorSpread) {
  const Spread spread = SpreadOf({10, 10, 10, 10, 10, 10, 10, 1e9});
  EXPECT_EQ(spread.low, 10);
  EXPECT_EQ(spread.median, 10);
  EXPECT_EQ(spread.high, 10);
}

ComparisonResult Measure(const Comparison& comparison) {
  return ResultOf(comparison, TakeRounds(comparison));
}

Variant Constant(std::string name, double ns) {
  return {.name = std::move(name), .run = [ns](Turn& turn) { turn.Record(ns); }, .goal = {}};
}

TEST(Comparison, RatiosAreTakenWithinARoundSoThatADriftCancels) {
  double drift = 1;
  const auto drifting = [&drift](double ns) {
    return [&drift, ns](Turn& turn) { turn.Record(ns * drift); };
  };
  Variant slower{.name = "b", .run = drifting(30), .goal = {}};
  Variant last{
      .name = "c", .run = [&drift](Turn& turn) { turn.Record(drift *= 1.01); }, .goal = {}};
  const ComparisonResult result = Measure({.name = "g.drift",
                                           .what = "",
                                           .variants = {{"a", drifting(10), {}}, slower, last},
                                           .rounds = 90});
  EXPECT_NEAR(result.variants[1].ratio->median, 3, 0.05);
  EXPECT_GT(result.variants[0].figure.p99, 1.5 * result.variants[0].figure.median);
}

TEST(Comparison, ADisturbedTurnIsTakenAgainAndCounted) {
  int turns = 0;
  Variant moody{.name = "b",
                .run =
                    [&turns](Turn& turn) {
                      turn.Record(2);
                      if (++turns % 2 == 0) turn.Discard();
                    },
                .goal = Goal{.of = Goal::Of::kRatio, .at_most = 2.5}};
  const ComparisonResult result =
      Measure({.name = "g.moody", .what = "", .variants = {Constant("a", 1), moody}, .rounds = 10});
  EXPECT_EQ(result.variants[1].figure.samples, 10u);
  EXPECT_GT(result.variants[1].discarded, 0u);
  EXPECT_EQ(result.variants[1].GoalMet(), true);
  EXPECT_EQ(result.variants[0].GoalMet(), std::nullopt);
}

TEST(Comparison, TheTimeLimitEndsItAfterTheLeastRounds) {
  const ComparisonResult result = Measure({.name = "g.limited",
                                           .what = "",
                                           .variants = {Constant("a", 1), Constant("b", 2)},
                                           .rounds = 1000,
                                           .time_limit = std::chrono::nanoseconds(0)});
  EXPECT_EQ(result.rounds, kLeastRounds);
}

TEST(Comparison, ASmokeRunWarmsNothingUpAndKeepsADisturbedTurn) {
  int turns = 0;
  Variant disturbed{.name = "b",
                    .run =
                        [&turns](Turn& turn) {
                          ++turns;
                          turn.Record(2);
                          turn.Discard();
                        },
                    .goal = {}};
  const ComparisonResult result = Measure({.name = "g.smoke",
                                           .what = "",
                                           .variants = {Constant("a", 1), disturbed},
                                           .rounds = 1,
                                           .smoke = true});
  EXPECT_EQ(turns, 1);
  EXPECT_EQ(result.variants[1].figure.samples, 1u);
}

TEST(Comparison, AVariantThatIsAlwaysDisturbedHasNoFigureAndMeetsNoGoal) {
  Variant hopeless{.name = "b",
                   .run = [](Turn& turn) { turn.Discard(); },
                   .goal = Goal{.of = Goal::Of::kMedianNs, .at_most = 1}};
  const ComparisonResult result = Measure(
      {.name = "g.hopeless", .what = "", .variants = {Constant("a", 1), hopeless}, .rounds = 3});
  EXPECT_EQ(result.variants[1].GoalMet(), std::nullopt);
  EXPECT_THAT(TableOf(result), HasSubstr("every turn was disturbed"));
}

TEST(Comparison, TheRoundsOfAnotherProcessCountLikeItsOwn) {
  const auto comparison = [](double figure) {
    return Comparison{.name = "g.c",
                      .what = "",
                      .variants = {Constant("a", 1), Constant("b", figure)},
                      .rounds = 10};
  };
  Rounds rounds = TakeRounds(comparison(2));
  ComparisonResult result = ResultOf(comparison(2), rounds);
  EXPECT_EQ(result.variants[1].ratio->high, 2);
  Append(rounds, TakeRounds(comparison(4)));
  Update(result, rounds);
  EXPECT_EQ(result.rounds, 20u);
  EXPECT_EQ(result.variants[1].figure.samples, 20u);
  EXPECT_EQ(result.variants[1].ratio->low, 2);
  EXPECT_EQ(result.variants[1].ratio->high, 4) << "the spread does not contain the other process";
}

TEST(RoundsFile, HasWhatWasSaved) {
  const std::string path = ::testing::TempDir() + "rounds_file_test";
  const Rounds rounds{.count = 2,
                      .variants = {{.samples = {1.5, 2.5}, .medians = {2.5}, .discarded = 3},
                                   {.samples = {}, .medians = {}, .ratios = {0.25}}}};
  ASSERT_EQ(SaveRounds(path, {{"g.c", rounds}}), absl::OkStatus());
  const absl::StatusOr<RoundsOfAll> loaded = LoadRounds(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->size(), 1u);
  const Rounds& again = loaded->at("g.c");
  EXPECT_EQ(again.count, 2u);
  ASSERT_EQ(again.variants.size(), 2u);
  EXPECT_THAT(again.variants[0].samples, ElementsAre(1.5, 2.5));
  EXPECT_THAT(again.variants[0].medians, ElementsAre(2.5));
  EXPECT_EQ(again.variants[0].discarded, 3u);
  EXPECT_THAT(again.variants[1].ratios, ElementsAre(0.25));
}

TEST(RoundsFile, AnEmptyFileHasNoRoundsAndAMissingFolderTakesNone) {
  EXPECT_THAT(std::string(LoadRounds("/dev/null").status().message()), HasSubstr("/dev/null"));
  EXPECT_FALSE(SaveRounds("/nowhere/rounds", {}).ok());
}

TEST(Report, TimesHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(FormatFigure(0.294, "ns"), "0.29 ns");
  EXPECT_EQ(FormatFigure(74.06, "ns"), "74.1 ns");
  EXPECT_EQ(FormatFigure(999.6, "ns"), "1.00 us");
  EXPECT_EQ(FormatFigure(12'345, "ns"), "12.3 us");
  EXPECT_EQ(FormatFigure(1'234'567, "ns"), "1.23 ms");
}

TEST(Report, AFigureHasTheUnitOfItsComparison) {
  EXPECT_EQ(FormatFigure(4'194'304, "bytes"), "4.19 MB");
  EXPECT_EQ(FormatFigure(12, "retries"), "12 retries");
}

TEST(Report, ACurveAndItsUnitAreInTheJson) {
  Results results;
  results.commit = "abc";
  results.comparisons.push_back(
      Measure({.name = "g.c.16",
               .what = "",
               .variants = {Constant("a", 0), Constant("b", 1)},
               .rounds = 4,
               .unit = "retries",
               .sweep = SweepPoint{.curve = "g.c", .variable = "caches", .value = 16}}));
  const auto json = nlohmann::json::parse(JsonOf(results));
  EXPECT_EQ(json["commit"], "abc");
  const auto& comparison = json["comparisons"][0];
  EXPECT_EQ(comparison["unit"], "retries");
  EXPECT_EQ(comparison["rounds"], 4);
  EXPECT_EQ(comparison["sweep"]["value"], 16);
  EXPECT_TRUE(comparison["variants"][1]["ratio"].is_null());  // nothing is a multiple of 0
}

TEST(Report, TheTableShowsWhetherAGoalWasMet) {
  Variant fast = Constant("fast", 20);
  fast.goal = Goal{.of = Goal::Of::kRatio, .at_most = 2.5};
  Variant slow = Constant("slow", 30);
  slow.goal = Goal{.of = Goal::Of::kP99Ns, .at_most = 25};
  const ComparisonResult result = Measure({.name = "g.goals",
                                           .what = "goals",
                                           .variants = {Constant("base", 10), fast, slow},
                                           .rounds = 3});
  EXPECT_THAT(TableOf(result), HasSubstr("goal x2.50: met"));
  EXPECT_THAT(TableOf(result), HasSubstr("goal p99 25.0 ns: missed"));
}

std::optional<CpuSeconds> CpuSecondsOf(const std::string& proc_stat) {
  constexpr int kCpus[] = {0, 12};
  std::istringstream stream(proc_stat);
  return CpuSecondsIn(stream, kCpus, 0.01);
}

TEST(OthersTime, IsTheBusyTimeOfOurCpusWithoutOurOwn) {
  // user nice system idle iowait irq softirq steal guest guest_nice
  const std::optional<CpuSeconds> before = CpuSecondsOf(
      "cpu  9 9 9 9 9 9 9 9 9 9\n"
      "cpu0 60 0 50 400 10 1 2 37 50 0\n"
      "cpu1 1000 0 0 0 0 0 0 0 0 0\n"
      "cpu12 40 0 0 400 0 0 0 0 40 0\nintr 1 2 3");
  ASSERT_TRUE(before.has_value());
  EXPECT_DOUBLE_EQ(before->all, 10);
  EXPECT_DOUBLE_EQ(before->busy, 1.9);
  std::optional<CpuSeconds> after = CpuSecondsOf(
      "cpu0 560 0 150 400 10 1 2 37 250 0\n"
      "cpu1 5000 0 0 0 0 0 0 0 0 0\n"
      "cpu12 40 0 0 700 0 0 0 100 40 0\n");
  ASSERT_TRUE(after.has_value());
  after->own = before->own + 6;
  EXPECT_DOUBLE_EQ(OthersShare(before, after).value_or(-1),
                   0.1);  // 7 of 10 s were busy, 6 are ours
}

TEST(OthersTime, IsUnknownIfTheHostDoesNotSayIt) {
  for (const char* text : {"", "cpu0 1 2 3\ncpu12 1 2 3", "cpu0 1 2 3 4 5 6 7 8",
                           "cpu 1 2 3 4 5 6 7 8", "cpu0 a 2 3 4 5 6 7 8\ncpu12 1 2 3 4 5 6 7 8"}) {
    EXPECT_FALSE(CpuSecondsOf(text).has_value()) << text;
  }
  const CpuSeconds some{.all = 2, .busy = 1, .own = 1};
  EXPECT_EQ(OthersShare(std::nullopt, some), std::nullopt);
  EXPECT_EQ(OthersShare(some, std::nullopt), std::nullopt);
  EXPECT_EQ(OthersShare(some, some), std::nullopt) << "no time has passed";
}

TEST(OthersTime, ThisHostSaysIt) {
  const std::optional<CpuSeconds> now = CpuSeconds::Now();
  ASSERT_TRUE(now.has_value());
  EXPECT_GE(now->all, now->busy);
  EXPECT_GT(now->busy, 0);
}

TEST(OthersTime, IsInTheJsonOnlyIfItIsKnown) {
  Results results;
  EXPECT_THAT(JsonOf(results), Not(HasSubstr("\"others\"")));
  results.others = 0.25;
  EXPECT_THAT(JsonOf(results), HasSubstr("\"others\": 0.25,"));  // not the last: see stock.sh
}

TEST(Options, AnUnknownArgumentIsNamed) {
  EXPECT_EQ(ParseOptions({"--rounds=7", "--filter=stage2"})->rounds, 7u);
  EXPECT_THAT(std::string(ParseOptions({"--fast"}).status().message()), HasSubstr("'--fast'"));
  EXPECT_FALSE(ParseOptions({"--rounds=0"}).ok());
  EXPECT_THAT(ParseOptions({"--filter=a.b,c"})->filters, ElementsAre("a.b", "c"));
  EXPECT_EQ(ParseOptions({"--seed=9"})->seed, 9u);
}

TEST(Options, AFullRunIsDividedAmongProcessesAndAQuickOneIsNot) {
  EXPECT_EQ(ParseOptions({})->processes, 4u);
  EXPECT_EQ(ParseOptions({"--quick"})->processes, 1u);
  EXPECT_EQ(ParseOptions({"--quick", "--processes=3"})->processes, 3u);
  EXPECT_FALSE(ParseOptions({"--processes=0"}).ok());
}

TEST(Partner, EndsItsWorkBeforeTheNext) {
  Partner partner(AllowedCpus().back());
  int first = 0;
  int second = 0;
  {
    const Partner::Work work(partner, [&] { ++first; });
    work.WaitForSteps(10);
  }
  const int counted = first;
  {
    const Partner::Work work(partner, [&] { ++second; });
    work.WaitForSteps(10);
  }
  EXPECT_GE(counted, 10);
  EXPECT_EQ(first, counted);
  EXPECT_GE(second, 10);
}

TEST(ExclusiveTable, UnmapsWhatItMappedAndNothingElse) {
  ExclusiveTable table;
  for (uint64_t gfn = 510; gfn < 515; ++gfn) table.Map({gfn}, {gfn + 1}, Access::kWrite);
  table.Unmap({{511}, {514}});
  EXPECT_EQ(table.Lookup({510}).pfn(), Pfn{511});
  EXPECT_TRUE(table.Lookup({512}).empty());
  EXPECT_EQ(table.Lookup({514}).pfn(), Pfn{515});
}

TEST(CausedRecords, TheInnermostKnownFunctionIsTheCause) {
  const std::vector<std::string> chain = {"__mmu_notifier_invalidate_range_start",
                                          "uffd_wp_range.constprop.0", "mprotect_fixup"};
  EXPECT_EQ(CauseOf(chain), "userfaultfd write-protect");
  EXPECT_EQ(CauseOf({}), "other");
}

TEST(CausedRecords, AZapIsADiscardOnlyIfNothingElseIsInTheChain) {
  const std::vector<std::string> hole = {"zap_page_range_single", "unmap_mapping_range",
                                         "shmem_fallocate"};
  EXPECT_EQ(CauseOf(hole), "hole or truncation");
  EXPECT_EQ(CauseOf(std::span(hole).first(1)), "discard");
}

TEST(CausedRecords, AScanOfNumaBalancingIsApartFromTheMigrationThatFollowsIt) {
  EXPECT_EQ(CauseOf(std::vector<std::string>{"change_protection", "change_prot_numa",
                                             "task_numa_work", "task_work_run"}),
            "NUMA balancing");
  EXPECT_EQ(CauseOf(std::vector<std::string>{"try_to_migrate_one", "migrate_pages",
                                             "migrate_misplaced_page", "do_numa_page"}),
            "migration");
}

TEST(NumaScans, EachNodeHasACpuOfThisProcess) {
  for (const int cpu : CpusOfNodes()) {
    EXPECT_THAT(AllowedCpus(), ::testing::Contains(cpu));
  }
  EXPECT_GE(CpusOfNodes().size(), 1u);
}

TEST(Benchmarks, WhatIsMeasuredIsSavedBeforeTheRunEnds) {
  char folder[] = "/tmp/bench_test.XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  BenchOptions options;
  options.effort = Effort::kSmoke;
  options.json_path = std::string(folder) + "/bench.json";
  Bench bench(options);
  const auto compare = [&](const char* name) {
    bench.Compare(
        {.name = name,
         .what = "nothing",
         .variants = {{.name = "one", .run = [](Turn& turn) { turn.Record(1); }, .goal = {}}}});
    std::ifstream file(options.json_path);
    return nlohmann::json::parse(file)["comparisons"].size();
  };
  EXPECT_EQ(compare("first"), 1u);
  EXPECT_EQ(compare("second"), 2u);
  const auto files = std::filesystem::directory_iterator(folder);
  EXPECT_EQ(std::distance(begin(files), end(files)), 1) << "something is left beside the JSON";
  std::filesystem::remove_all(folder);
}

TEST(Benchmarks, TheRoundsAreDividedAndThoseOfAnotherProcessAreAdded) {
  BenchOptions options;
  options.json_path = "-";
  options.processes = 4;
  const auto measure = [](Bench& bench) {
    bench.Compare({.name = "both", .what = "", .variants = {Constant("a", 1)}, .rounds = 40});
  };
  Bench bench(options);
  measure(bench);
  bench.Compare({.name = "mine", .what = "", .variants = {Constant("a", 1)}, .rounds = 3});
  EXPECT_EQ(bench.results().comparisons[0].rounds, 10u);
  EXPECT_EQ(bench.results().comparisons[1].rounds, kLeastRounds);
  options.rounds_path = "unused";
  Bench other(options);
  measure(other);
  bench.Add(other.rounds());
  EXPECT_EQ(bench.results().comparisons[0].rounds, 20u);
  EXPECT_EQ(bench.results().comparisons[1].rounds, kLeastRounds);
  EXPECT_EQ(nlohmann::json::parse(JsonOf(bench.results()))["processes"], 4);
}

TEST(Benchmarks, EachRunsBrieflyAndPrintsAFigure) {
  rcu::StartWorker();
  BenchOptions options;
  options.effort = Effort::kSmoke;
  options.json_path = "-";
  Bench bench(options);
  bench.RunAll();
  EXPECT_GE(bench.results().comparisons.size() + bench.results().skipped.size(), 15u);
  for (const ComparisonResult& comparison : bench.results().comparisons) {
    EXPECT_GT(comparison.variants.size(), 1u) << comparison.name;
    EXPECT_GT(comparison.variants.front().figure.samples, 0u) << comparison.name;
  }
  const auto json = nlohmann::json::parse(JsonOf(bench.results()));
  EXPECT_EQ(json["comparisons"].size(), bench.results().comparisons.size());
  EXPECT_EQ(json["effort"], "smoke");
}

}  // namespace
}  // namespace underfoot::bench
