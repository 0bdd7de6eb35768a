// What people see: tables, the status line, the summary.

#include "vmm/cli/views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/control/fake_target.h"
#include "vmm/cli/status_line.h"
#include "vmm/cli/summary.h"
#include "vmm/cli/table.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(TableTest, ColumnsAreAlignedAndLinesHaveNoTail) {
  Table table({Align::kLeft, Align::kRight, Align::kLeft});
  table.AddRow({"a", "1", "x"});
  table.AddRow({"bbb", "22", ""});
  table.AddRow({"ü"});
  EXPECT_EQ(table.Text(), "a     1  x\nbbb  22\nü\n");
}

TEST(TableTest, NoControlCharacterReachesTheTerminal) {
  Table table({Align::kLeft});
  table.AddRow({"a\x1b[2J\nb"});
  EXPECT_EQ(table.Text(), "a?[2J?b\n");
}

TEST(ViewsTest, StatsShowEveryFieldOnceUnderItsGroup) {
  const std::string text = StatsView(ToJson(SomeStats()), nullptr);
  EXPECT_THAT(text, AllOf(HasSubstr("\nguest        workload"), HasSubstr("oldest_us"),
                          HasSubstr("operations.discard"), HasSubstr("causes.ksm"),
                          HasSubstr("fault_us.p99"), HasSubstr("105 us"), Not(HasSubstr("/s"))));
  EXPECT_EQ(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')),
            6 + 4 + 10 + 8 + 5 + 4 + 6 + 18 + 23 + (2 + kChurnKinds.size()) + 13 + 6);
}

TEST(ViewsTest, StatsShowWhatTotalsGainedPerSecondAndNothingForTheRest) {
  Stats now = SomeStats();
  now.vm.uptime_us += 2000000;
  now.stage2.maps += 5000;
  now.stage2.tables += 10;
  const Json before = ToJson(SomeStats());
  const std::string text = StatsView(ToJson(now), &before);
  EXPECT_THAT(text, HasSubstr("5,123  2,500/s\n"));
  EXPECT_EQ(text.find("/s"), text.rfind("/s"));
}

TEST(ViewsTest, CoverageShowsWhatWasDoneWhoSawItAndWhoMust) {
  const std::string text = CoverageView(ToJson(SomeCoverage()));
  EXPECT_THAT(text, HasSubstr("KIND     DONE  hook             uffd  kernel (off)  RESULT\n"));
  EXPECT_THAT(text, HasSubstr("discard     4  5!, 3 us / 3 us  -     -!            seen\n"));
  EXPECT_THAT(text, HasSubstr("zap         6  -!"));
  EXPECT_THAT(text, Not(HasSubstr("punch")));
}

TEST(ViewsTest, AnEventIsALine) {
  FakeTarget target;
  target.HappenTo(0x7f0000001);
  EXPECT_EQ(EventLine(ToJson(target.GetEvents(0, 1).front())),
            "      0.001000  kernel unmap         0x7f0000001000  1 pages, lag 24 us, ksmd (ksm), "
            "invalidated");
  EXPECT_EQ(EventLine(Json::parse(R"({"lost": 1234})")), "... 1,234 events are missing here");
}

TEST(SummaryTest, AKindThatASourceMissedIsAProblem) {
  const std::vector<std::string> problems = ProblemsIn({}, SomeCoverage());
  EXPECT_THAT(problems, ::testing::Contains("6 operations of zap churn were missed by hook"));
}

TEST(ViewsTest, AGroupThatANewerMachineAddsIsShownToo) {
  Json stats = ToJson(SomeStats());
  stats["wings"] = Json::object({{"flaps", 12345}});
  EXPECT_THAT(StatsView(stats, nullptr), HasSubstr("wings        flaps                    12,345"));
}

TEST(ViewsTest, CachesMemslotsStage2AndChurn) {
  FakeTarget target;
  EXPECT_EQ(CachesView(ToJson(*target.GetCaches())),
            "NAME    KEY         ADDRESS  BYTES  STATE               HVA   PFN  REFRESHES  "
            "INVALIDATIONS\n"
            "vring   gpa          0x1000  4,096  valid    0x7f0000001000  0x4d          5  "
            "            6\n"
            "shared  hva  0x7f0000002000      8  invalid               -     -          7  "
            "            8\n");
  EXPECT_EQ(MemslotsView(ToJson(*target.GetMemslots())),
            "ID    GFN    END     SIZE             HVA  GENERATION  FLAGS\n"
            " 0    0x0  0x100    1 MiB  0x7f0000000000           3  -\n"
            " 1  0x100  0x180  512 KiB  0x7f0000100000           4  log_dirty_pages,readonly\n");
  EXPECT_EQ(Stage2View(ToJson(*target.GetStage2(Gfn{0x10}))),
            "gfn 0x10\n"
            "LEVEL  ENTRY      RAW\n"
            "    3  table   0x1003\n"
            "    2  table   0x2003\n"
            "    1  leaf   0x4d003\n"
            "mapped to pfn 0x4d, hva 0x7f0000010000, rw, young\n");
  EXPECT_THAT(Stage2View(ToJson(*target.GetStage2(Gfn{0x11}))),
              HasSubstr("not mapped: never faulted in\n"));
  EXPECT_THAT(ChurnView(ToJson(*target.GetChurn())),
              AllOf(HasSubstr("churn runs, seed 7\n"), HasSubstr("\ndiscard    100/s     0\n"),
                    HasSubstr("\nzap          off     0\n")));
  EXPECT_EQ(WorkingSetView(ToJson(*target.GetWorkingSet(absl::Seconds(3)))),
            "touched in the last 3.0 s, by 2 scans; seen: accesses\n"
            " ID    GFN     SIZE  TOUCHED        SHARE\n"
            "  0    0x0    1 MiB        -  not sampled\n"
            "  1  0x100  512 KiB  128 KiB        25.0%\n"
            "all         512 KiB  128 KiB        25.0%\n");
  EXPECT_EQ(VmView(ToJson(*target.GetVm())), "vm-1 is running\n");
}

TEST(StatusLineTest, RatesAreOverTheTimeBetween) {
  Stats before = SomeStats();
  Stats now = before;
  now.vm.uptime_us = before.vm.uptime_us + 2000000;
  now.churn.operations[ChurnKind::kDiscard] += 4000;
  now.uffd.missing += 1000;
  now.uffd.minor += 1000;
  now.pfn_caches.hits += 999;
  now.pfn_caches.misses += 1;
  now.guest.pages_checked = 1234567;
  now.guest.mismatches = 0;
  now.audit.unexplained = 0;
  EXPECT_EQ(StatusLine(now, before),
            "running 2s | 2,000 churn/s | 1,000 faults/s | cache hits 99.90% | checked 1,234,567 | "
            "mismatches 0 | audit 0 | retired 136");
}

TEST(StatusLineTest, TheFirstLineHasNoRatesAndNothingDividesByZero) {
  EXPECT_THAT(
      StatusLine(SomeStats(), SomeStats()),
      AllOf(HasSubstr("- churn/s | - faults/s | cache hits -"), HasSubstr("mismatches 109")));
}

TEST(StatusLineTest, ItIsNeverWiderThanTheTerminal) {
  EXPECT_EQ(StatusLine(SomeStats(), Stats(), 40).size(), 40U);
}

Stats GoodStats() {
  Stats stats = SomeStats();
  stats.guest.mismatches = 0;
  stats.audit.unexplained = 0;
  stats.notifier.ends = stats.notifier.begins;
  stats.notifier.in_flight = 0;
  stats.rcu.freed = stats.rcu.retired;
  return stats;
}

TEST(SummaryTest, EachProblemIsFoundAlone) {
  EXPECT_THAT(ProblemsIn(GoodStats(), {}), IsEmpty());
  const auto problem = [](auto change) {
    Stats stats = GoodStats();
    change(&stats);
    const std::vector<std::string> problems = ProblemsIn(stats, {});
    EXPECT_EQ(problems.size(), 1U);
    return problems.empty() ? "" : problems.front();
  };
  EXPECT_EQ(problem([](Stats* s) { s->guest.verdict = GuestVerdict::kBad; }),
            "the guest's verdict is bad");
  EXPECT_EQ(problem([](Stats* s) { s->guest.verdict = GuestVerdict::kPending; }),
            "the guest's verdict is pending");
  EXPECT_THAT(problem([](Stats* s) { s->guest.mismatches = 3; }), HasSubstr("read 3 pages"));
  EXPECT_THAT(problem([](Stats* s) { s->audit.unexplained = 4; }), HasSubstr("4 wrong"));
  EXPECT_THAT(problem([](Stats* s) { ++s->notifier.ends; }), HasSubstr("127 invalidations begun"));
  EXPECT_THAT(problem([](Stats* s) { s->notifier.in_flight = 1; }), HasSubstr("1 in flight"));
  EXPECT_THAT(problem([](Stats* s) { --s->rcu.freed; }), HasSubstr("136 table pages retired"));
}

TEST(SummaryTest, SaysWhatCameOutAndHowToLook) {
  const RunSummary good{.stats = GoodStats(), .problems = {}, .control_path = "/x.sock"};
  EXPECT_THAT(SummaryText(good),
              AllOf(HasSubstr("verdict good, 108 pages checked, 0 mismatches"),
                    HasSubstr("307 operations"), HasSubstr("discard 153, foreign 154, seed 151"),
                    HasSubstr("PASSED"), HasSubstr("curl --unix-socket /x.sock http://")));
  const RunSummary bad{.stats = GoodStats(), .problems = {"it leaks"}, .control_path = "/x.sock"};
  EXPECT_THAT(SummaryText(bad),
              AllOf(HasSubstr("FAILED:\n  it leaks\n"), Not(HasSubstr("PASSED"))));
}

TEST(SummaryTest, AReplaySaysHowMuchOfItWasDoneAndWhatDifferedFirst) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.replay = ReplayStats{.recorded = 5000, .repeated = 1200, .differences = 2, .first = "x"};
  EXPECT_THAT(SummaryText(summary),
              AllOf(HasSubstr("replay: 1,200 of 5,000 operations repeated, 2 differ\n"),
                    HasSubstr("a longer --duration"), HasSubstr("  the first: x\n")));
  const Json json = Json::parse(SummaryJson(summary));
  EXPECT_EQ(json["replay"]["recorded"], 5000);
  EXPECT_EQ(json["replay"]["repeated"], 1200);
  summary.replay->repeated = 5000;
  EXPECT_THAT(SummaryText(summary), Not(HasSubstr("a longer --duration")));
}

TEST(SummaryTest, NamesTheCausesOfWhatOnlyTheKernelTold) {
  Stats stats = GoodStats();
  stats.kernel.causes = {};
  EXPECT_THAT(SummaryText({.stats = stats, .problems = {}, .control_path = ""}),
              HasSubstr("163 foreign, 161 ages"));
  stats.kernel.causes[static_cast<size_t>(HostCause::kKsm)] = 3;
  stats.kernel.causes[static_cast<size_t>(HostCause::kHugePage)] = 1160;
  EXPECT_THAT(SummaryText({.stats = stats, .problems = {}, .control_path = ""}),
              HasSubstr("163 foreign (1,160 huge-page, 3 ksm), 161 ages"));
}

TEST(SummaryTest, TheJsonHoldsTheStatsUnderTheirStableNames) {
  const RunSummary summary{.stats = GoodStats(), .problems = {"a"}, .control_path = ""};
  const Json json = Json::parse(SummaryJson(summary));
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["problems"], Json::array({"a"}));
  EXPECT_EQ(json["stats"], ToJson(GoodStats()));
  EXPECT_EQ(json["skipped"], Json::object());
}

TEST(SummaryTest, TheJsonSaysWhichKindsOfChurnWereLeftOutAndWhy) {
  RunSummary summary;
  summary.skipped = {{ChurnKind::kMerge, "no KSM"}, {ChurnKind::kMigrate, "one node"}};
  EXPECT_EQ(Json::parse(SummaryJson(summary))["skipped"],
            Json::parse(R"({"merge": "no KSM", "migrate": "one node"})"));
}

}  // namespace
}  // namespace underfoot::testing
