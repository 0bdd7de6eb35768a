// What people see: tables, the status line, the summary.

#include "vmm/cli/views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "tests/control/fake_target.h"
#include "vmm/cli/status_line.h"
#include "vmm/cli/summary.h"
#include "vmm/cli/table.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

TEST(TableTest, ColumnsAreAlignedAndLinesHaveNoTail) {
  TextTable table({Align::kLeft, Align::kRight, Align::kLeft});
  table.AddRow({"a", "1", "x"});
  table.AddRow({"bbb", "22", ""});
  table.AddRow({"ü"});
  EXPECT_EQ(table.Text(), "a     1  x\nbbb  22\nü\n");
}

TEST(TableTest, NoControlCharacterReachesTheTerminal) {
  TextTable table({Align::kLeft});
  table.AddRow({"a\x1b[2J\nb"});
  EXPECT_EQ(table.Text(), "a?[2J?b\n");
}

TEST(ViewsTest, StatsShowEveryFieldOnceUnderItsGroup) {
  const std::string text = StatsView(ToJson(SomeStats()), nullptr);
  EXPECT_THAT(text, AllOf(HasSubstr("\nguest         workload"), HasSubstr(" oldest "),
                          HasSubstr("operations.discard"), HasSubstr("causes.ksm"),
                          HasSubstr("fault.p99"), HasSubstr("105 us"), Not(HasSubstr("/s"))));
  EXPECT_EQ(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')),
            6 + 4 + 10 + 8 + 4 + 4 + 7 + 28 + 23 + (2 + kChurnKinds.size()) + 13 + 6 + 18 + 7 + 12 +
                10 + (3 + 4 * 2) + 16);
}

TEST(ViewsTest, StatsShowWhatTotalsGainedPerSecondAndNothingForTheRest) {
  Stats now = SomeStats();
  now.vm.uptime_us += 2000000;
  now.stage2.maps += 5000;
  now.stage2.tables += 10;
  now.uffd.fault_us.sum_us += 1000000;  // a sum of times has no rate
  const Json before = ToJson(SomeStats());
  const std::string text = StatsView(ToJson(now), &before);
  EXPECT_THAT(text, HasSubstr("5,123  2,500/s\n"));
  EXPECT_EQ(text.find("/s"), text.rfind("/s"));
}

std::vector<std::string> LinesOf(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

TEST(ViewsTest, NoTwoFieldsOfAGroupAreShownUnderOneName) {
  const Json stats = ToJson(SomeStats());
  for (const auto& [group, fields] : stats.items()) {
    std::set<std::string> names;
    for (const std::string& line : LinesOf(StatsView(stats, nullptr, {.group = group}))) {
      constexpr size_t kName = 1;  // after the group, which only the first line has
      std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      const std::string& name = line.starts_with(' ') ? words[0] : words[kName];
      EXPECT_TRUE(names.insert(name).second) << group << " " << name;
    }
  }
  EXPECT_THAT(StatsView(stats, nullptr, {.group = "hotplug"}), HasSubstr(" plugged_size "));
}

TEST(ViewsTest, StatsThatDoNotFitShowTheFastestFirstAndSayHowManyAreLeftOut) {
  Stats now = SomeStats();
  now.vm.uptime_us += 1000000;
  now.stage2.maps += 50;
  now.uffd.missing += 7000;
  now.stage2.tables += 10;
  now.uffd.fault_us.sum_us += 1000000;  // a sum of times has no rate
  const Json before = ToJson(SomeStats());
  const std::vector<std::string> lines =
      LinesOf(StatsView(ToJson(now), &before, {.group = "", .nonzero = false, .rows = 10}));
  ASSERT_EQ(lines.size(), 10U);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("uffd"), HasSubstr("missing"), HasSubstr("7,000/s")));
  EXPECT_THAT(lines[1], AllOf(HasSubstr("stage2"), HasSubstr("maps"), HasSubstr("50/s")));
  EXPECT_THAT(lines[2], AllOf(HasSubstr("vm"), HasSubstr("uptime")));
  EXPECT_THAT(lines[3], AllOf(HasSubstr("stage2"), HasSubstr("tables")));
  EXPECT_THAT(lines[9], ::testing::ContainsRegex("\\.\\.\\. [0-9]+ more"));
}

TEST(ViewsTest, StatsAreThoseOfOneGroupOrThatAreNotZero) {
  Stats stats = SomeStats();
  stats.rcu.retired = 0;
  const Json json = ToJson(stats);
  const std::string rcu = StatsView(json, nullptr, {.group = "rcu"});
  EXPECT_EQ(LinesOf(rcu).size(), 7U);
  EXPECT_THAT(rcu, HasSubstr("retired"));
  const std::string nonzero = StatsView(json, nullptr, {.group = "rcu", .nonzero = true});
  EXPECT_EQ(LinesOf(nonzero).size(), 6U);
  EXPECT_THAT(nonzero, Not(HasSubstr("retired")));
}

TEST(ViewsTest, AUnitStandsInTheNameOrInTheValueAndNotInBoth) {
  for (const std::string& line : LinesOf(StatsView(ToJson(SomeStats()), nullptr))) {
    EXPECT_THAT(line, Not(::testing::ContainsRegex("_us|_bytes"))) << line;
  }
}

TEST(ViewsTest, CsvHasOneLineOfNamesAndTheSameColumnsInEachLine) {
  std::vector<std::string> names;
  Json json = ToJson(SomeStats());
  json["vm"]["name"] = "a,\"b";
  const std::vector<std::string> first = LinesOf(StatsCsv(json, {.group = "vm"}, &names));
  json["vm"].erase("kvm_vendor");
  const std::vector<std::string> second = LinesOf(StatsCsv(json, {.group = "vm"}, &names));
  EXPECT_THAT(first, ::testing::ElementsAre(
                         "vm.name,vm.vcpus,vm.memory_bytes,vm.state,vm.uptime_us,vm.kvm_vendor",
                         "\"a,\"\"b\",102,103,running,105,kvm_test"));
  EXPECT_THAT(second, ::testing::ElementsAre("\"a,\"\"b\",102,103,running,105,"));
}

TEST(ViewsTest, ChurnThatHasNoRatesIsOffAndDoesNotRun) {
  Json churn = {
      {"seed", 7}, {"running", true}, {"rates", Json::object()}, {"operations", {{"zap", 3}}}};
  EXPECT_THAT(ChurnView(churn),
              HasSubstr("churn is off, seed 7; OPERATIONS: also those that the host declined\n"));
  churn["rates"] = {{"zap", 5}};
  EXPECT_THAT(ChurnView(churn), HasSubstr("churn runs"));
  churn["running"] = false;
  EXPECT_THAT(ChurnView(churn), HasSubstr("churn is stopped"));
}

TEST(ViewsTest, CoverageShowsOperationsTheirEventsAndTheDuties) {
  const std::string text = CoverageView(ToJson(SomeCoverage()));
  EXPECT_THAT(text, HasSubstr("KIND     DONE  hook             uffd  kernel (off)  RESULT\n"));
  EXPECT_THAT(text, HasSubstr("discard     4  5!, 3 us / 3 us  -     -!            seen\n"));
  EXPECT_THAT(text, HasSubstr("zap         6  -!"));
  EXPECT_THAT(text, Not(HasSubstr("punch")));
  EXPECT_THAT(text, HasSubstr("\nDONE: without those that the host declined"));
}

TEST(ViewsTest, AnEventIsALine) {
  FakeTarget target;
  target.HappenTo(0x7f0000001);
  EXPECT_EQ(EventLine(ToJson(target.GetEvents(0, 1).front())),
            "      0.001000  kernel unmap         0x7f0000001000  1 page, lag 24 us, ksmd (ksm), "
            "invalidated");
  Json of_a_hook = ToJson(target.GetEvents(0, 1).front());
  of_a_hook.update({{"source", "hook"}, {"change", "discard"}, {"call", "UFFDIO_MOVE"}});
  of_a_hook.update({{"task", ""}, {"cause", "unknown"}});
  EXPECT_EQ(
      EventLine(of_a_hook),
      "      0.001000  hook   discard       0x7f0000001000  1 page, lag 24 us, by UFFDIO_MOVE, "
      "invalidated");
  EXPECT_EQ(EventLine(ParseJson(R"({"lost": 1234})")), "... 1,234 events are missing here");
  EXPECT_EQ(EventLine(ParseJson(R"({"clock": "CLOCK_MONOTONIC", "now_ns": 2500000})")),
            "times are seconds of CLOCK_MONOTONIC; now: 0.002500");
}

TEST(SummaryTest, AKindThatASourceMissedIsAProblem) {
  const std::vector<std::string> problems = ProblemsIn({}, SomeCoverage());
  EXPECT_THAT(problems, ::testing::Contains("6 operations of zap churn were missed by hook"));
}

TEST(ViewsTest, AGroupThatANewerMachineAddsIsShownToo) {
  Json stats = ToJson(SomeStats());
  stats["wings"] = Json::object({{"flaps", 12345}});
  EXPECT_THAT(StatsView(stats, nullptr),
              HasSubstr("wings         flaps                    12,345"));
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
  EXPECT_THAT(
      ChurnView(ToJson(*target.GetChurn())),
      AllOf(HasSubstr("churn runs, seed 7; "), HasSubstr("\ndiscard    100/s           0\n"),
            HasSubstr("\nzap          off           0\n")));
  EXPECT_EQ(WorkingSetView(ToJson(*target.GetWorkingSet(absl::Seconds(3)))),
            "touched in the last 3.0 s, by 2 scans; seen: accesses\n"
            " ID    GFN     SIZE  TOUCHED        SHARE\n"
            "  0    0x0    1 MiB        -  not sampled\n"
            "  1  0x100  512 KiB  128 KiB        25.0%\n"
            "all         512 KiB  128 KiB        25.0%\n");
  EXPECT_EQ(DevicesView(ToJson(*target.GetDevices())),
            "blk: registers at 0x7fc0000000, status 0xf, 1 reset by the driver, 2 needed\n"
            "  the first error of its file: read at byte 512 of the disk: Input/output error\n"
            "QUEUE  NEXT  REQUESTS  ERRORS  TO GUEST  FROM GUEST  DIRECT  BOUNCED  KICKS  "
            "INTERRUPTS  REFRESHES  IN REQUEST\n"
            "blk-0     4         5       6   7 bytes     8 bytes      15        9     10"
            "          11         12          13\n"
            "blk-1     -         0       0   0 bytes     0 bytes       0        0      0"
            "           0          0           0\n"
            "EVENT PAGE        GPA  SENT FAST  HANDED OVER  SENT SLOW  TIMES  REFRESHES\n"
            "vm          0x103c000         20           21         22     23         24\n"
            "vcpu-0         closed          0            0          0      0          0\n");
  EXPECT_EQ(DevicesView(ToJson(AllDevices())), "no virtio devices\n");
  BalloonInfo info{
      .balloon = {.target_bytes = 8192, .actual_bytes = 4096, .inflated = 1, .idle_us = 50},
      .guest = {}};
  BalloonStats& balloon = info.balloon;
  const std::string state =
      "the guest has given back 4 KiB of 8 KiB asked for; 1 page inflated, 0 deflated, 0 reported "
      "free, 0 kept\n";
  EXPECT_TRUE(GuestMoves(ToJson(info), kBalloonTarget));
  EXPECT_EQ(BalloonView(ToJson(info)), state);
  balloon.idle_us = kGuestPatienceUs;
  EXPECT_FALSE(GuestMoves(ToJson(info), kBalloonTarget));
  EXPECT_EQ(
      BalloonView(ToJson(info)),
      state +
          "the guest has not reached the target and has changed nothing for 2.0 s; it may have "
          "no more memory to give, or no balloon driver. The target stays set; `underfoot "
          "balloon --set 0` withdraws it\n");
  balloon.actual_bytes = balloon.target_bytes;
  EXPECT_FALSE(GuestMoves(ToJson(info), kBalloonTarget));
  EXPECT_THAT(BalloonView(ToJson(info)), Not(HasSubstr("changed nothing")));
  EXPECT_THAT(BalloonView(ToJson(info)), Not(HasSubstr("the guest has reported")));
  info.guest = {.reports = 3,
                .age_us = 20'000,
                .swap_out_bytes = 8192,
                .major_faults = 7,
                .free_bytes = 4096,
                .total_bytes = 1 << 20,
                .available_bytes = 16384};
  EXPECT_THAT(BalloonView(ToJson(info)),
              HasSubstr("\nthe guest has reported 20.0 ms ago: 1 MiB of memory, 4 KiB free, 16 KiB "
                        "available, 0 bytes of caches; 0 bytes swapped in, 8 KiB out; 7 major "
                        "faults\n"));
  HotplugStats hotplug{.region_bytes = uint64_t{1} << 30,
                       .requested_bytes = 8 << 20,
                       .plugged_bytes = 4 << 20,
                       .plugged = 3,
                       .unplugged = 1,
                       .busy = 5,
                       .kept = 6,
                       .idle_us = 50};
  const std::string memory =
      "the guest has plugged 4 MiB of 8 MiB asked for, of 1 GiB at most; 3 blocks plugged, 1 "
      "unplugged, 5 busy, 6 kept\n";
  EXPECT_TRUE(GuestMoves(ToJson(hotplug), kMemoryTarget));
  EXPECT_EQ(MemoryView(ToJson(hotplug)), memory);
  hotplug.idle_us = kGuestPatienceUs;
  EXPECT_FALSE(GuestMoves(ToJson(hotplug), kMemoryTarget));
  EXPECT_EQ(MemoryView(ToJson(hotplug)),
            memory +
                "the guest has not reached that and has changed nothing for 2.0 s; it may use what "
                "it shall unplug, or have no driver (virtio_mem). It goes on trying\n");
  EXPECT_EQ(
      DirtyView(ToJson(*target.GetDirty())),
      "collection 7 ended 20.0 ms ago. WRITTEN: in this collection; WAITING: in this and earlier "
      "ones, and not taken yet\n"
      " ID    GFN       SIZE  WRITTEN  WAITING\n"
      "  0    0x0      1 MiB   12 KiB   20 KiB\n"
      "  1  0x100    512 KiB   32 KiB   36 KiB\n"
      "all         1,536 KiB   44 KiB   56 KiB\n");
  EXPECT_EQ(TakenView(ToJson(*target.TakeDirty())), "0x0 0x3\n0x3f 0x40\n0x141 0x142\n");
  EXPECT_EQ(TakenView(ToJson(*target.TakeDirty())), "");
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
            "running 2s | mismatches 0 | audit 0 | checked 1,234,567 | 2,000 churn/s | "
            "1,000 faults/s | cache hits 99.90% | retired 136");
}

TEST(StatusLineTest, TheFirstLineHasNoRatesAndNothingDividesByZero) {
  EXPECT_THAT(
      StatusLine(SomeStats(), SomeStats()),
      AllOf(HasSubstr("- churn/s | - faults/s | cache hits -"), HasSubstr("mismatches 109")));
}

TEST(StatusLineTest, ItIsNeverWiderThanTheTerminalAndKeepsTheVerdict) {
  EXPECT_EQ(StatusLine(SomeStats(), SomeStats(), 40), "running 0s | mismatches 109 | audit 174");
  for (size_t columns = 1; columns < 200; ++columns) {
    EXPECT_LE(StatusLine(SomeStats(), Stats(), columns).size(), columns);
  }
  Stats long_run = SomeStats();
  long_run.vm.uptime_us = uint64_t{100000} * 1000000;
  long_run.guest.pages_checked = uint64_t{1000000} * 1000000;
  EXPECT_THAT(StatusLine(long_run, long_run, 79),
              AllOf(HasSubstr("mismatches 109"), HasSubstr("audit 174"), HasSubstr("checked 1,0")));
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
  EXPECT_EQ(problem([](Stats* s) { s->guest.verdict = GuestVerdict::kPending; }),
            "the guest's verdict is pending");
  Stats bad = GoodStats();
  bad.guest.verdict = GuestVerdict::kBad;
  bad.guest.mismatches = 3;
  bad.audit.unexplained = 4;
  EXPECT_THAT(ProblemsIn(bad, {}), IsEmpty()) << "the machine reports each of them, in one line";
  Stats without = GoodStats();
  without.guest.verdict = GuestVerdict::kNone;
  EXPECT_THAT(ProblemsIn(without, {}), IsEmpty()) << "the machine says why there is none";
  EXPECT_THAT(problem([](Stats* s) { s->guest.mismatches = 3; }), HasSubstr("in 3 pages"));
  EXPECT_THAT(problem([](Stats* s) { ++s->notifier.ends; }), HasSubstr("127 invalidations begun"));
  EXPECT_THAT(problem([](Stats* s) { s->notifier.in_flight = 1; }), HasSubstr("1 in flight"));
  EXPECT_THAT(problem([](Stats* s) { --s->rcu.freed; }), HasSubstr("136 table pages retired"));
}

TEST(SummaryTest, BeginsWithTheVerdictAndEndsWithCommandsToTry) {
  const RunSummary good{.stats = GoodStats(), .problems = {}};
  EXPECT_THAT(
      SummaryText(good),
      AllOf(HasSubstr("verdict good, 108 pages checked, 0 mismatches"), HasSubstr("307 operations"),
            HasSubstr("discard 153, foreign 154, seed 151"), StartsWith("PASSED: "),
            HasSubstr("  underfoot stats --watch\n"), Not(HasSubstr("--control"))));
  EXPECT_THAT(SummaryText(good), Not(HasSubstr("read at byte")));
  RunSummary failed = good;
  failed.file_errors = {"read at byte 512 of 'a.img': Input/output error"};
  EXPECT_THAT(SummaryText(failed),
              ContainsRegex("disk +read at byte 512 of 'a.img': Input/output error\n"));
  EXPECT_EQ(ParseJson(SummaryJson(failed))["file_errors"], Json(failed.file_errors));
  const RunSummary bad{.stats = GoodStats(), .problems = {"it leaks"}};
  EXPECT_THAT(SummaryText(bad),
              AllOf(StartsWith("FAILED:\n  it leaks\n\nmachine "), Not(HasSubstr("PASSED"))));
}

TEST(SummaryTest, TheFailureOfADisksFileComesBeforeWhatFollowsFromIt) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.file_errors = {"read at byte 512 of 'a.img': Input/output error"};
  summary.PutFileErrorsFirst();
  EXPECT_TRUE(summary.passed()) << "the guest has coped with it";
  summary.Add({RunEnd::kWrong, "the guest's verdict is bad"});
  summary.PutFileErrorsFirst();
  EXPECT_EQ(summary.result(), RunEnd::kWrong);
  EXPECT_THAT(SummaryText(summary),
              StartsWith("FAILED:\n"
                         "  a disk of the guest has failed: read at byte 512 of 'a.img': "
                         "Input/output error\n"
                         "  the guest's verdict is bad\n"));
}

TEST(SummaryTest, OfSeveralEndsTheWorstCountsAndATimeoutIsNoFailureOfTheGuest) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  EXPECT_EQ(summary.result(), RunEnd::kPassed);
  summary.Add({RunEnd::kUnfinished, "timeout"});
  EXPECT_EQ(ParseJson(SummaryJson(summary))["exit_code"], 3);
  EXPECT_EQ(ParseJson(SummaryJson(summary))["result"], "did not finish");
  EXPECT_THAT(SummaryText(summary), HasSubstr("DID NOT FINISH:\n  timeout\n"));
  summary.Add({RunEnd::kWrong, "a mismatch"});
  summary.Add({RunEnd::kUnfinished, "the record"});
  EXPECT_EQ(summary.result(), RunEnd::kWrong);
  EXPECT_THAT(SummaryText(summary), HasSubstr("FAILED:\n  timeout\n  a mismatch\n"));
}

TEST(SummaryTest, ALinuxGuestPowersOffOrRebootsAndHasNoPagesToReport) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.options.linux_guest = LinuxOptions{};
  EXPECT_THAT(SummaryText(summary), AllOf(HasSubstr("Linux has powered off"), HasSubstr("PASSED"),
                                          Not(HasSubstr("pages checked"))));
  summary.Add({RunEnd::kRebooted, "the guest has rebooted"});
  EXPECT_EQ(ParseJson(SummaryJson(summary))["exit_code"], 4);
  EXPECT_EQ(ParseJson(SummaryJson(summary))["result"], "rebooted");
  EXPECT_THAT(SummaryText(summary), HasSubstr("REBOOTED:\n  the guest has rebooted\n"));
  summary.Add({RunEnd::kWrong, "a leak"});
  EXPECT_THAT(SummaryText(summary), HasSubstr("FAILED:\n"));
}

TEST(SummaryTest, AReplayReportsItsProgressAndItsFirstDifference) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.replay = ReplayStats{.recorded = 5000, .repeated = 1200, .differences = 2, .first = "x"};
  EXPECT_THAT(SummaryText(summary),
              AllOf(HasSubstr("replay: 1,200 of 5,000 operations repeated, 2 differ\n"),
                    HasSubstr("a longer --duration"), HasSubstr("  the first: x\n")));
  const Json json = ParseJson(SummaryJson(summary));
  EXPECT_EQ(json["replay"]["recorded"], 5000);
  EXPECT_EQ(json["replay"]["repeated"], 1200);
  summary.replay->repeated = 5000;
  EXPECT_THAT(SummaryText(summary), Not(HasSubstr("a longer --duration")));
}

TEST(SummaryTest, NamesTheCausesOfForeignKernelRecords) {
  Stats stats = GoodStats();
  stats.kernel.causes = {};
  EXPECT_THAT(SummaryText({.stats = stats, .problems = {}}), HasSubstr("163 foreign, 161 ages"));
  stats.kernel.causes[static_cast<size_t>(HostCause::kKsm)] = 3;
  stats.kernel.causes[static_cast<size_t>(HostCause::kHugePage)] = 1160;
  EXPECT_THAT(SummaryText({.stats = stats, .problems = {}}),
              HasSubstr("163 foreign (1,160 huge-page, 3 ksm), 161 ages"));
}

TEST(SummaryTest, TheJsonHoldsTheStatsUnderTheirStableNames) {
  const RunSummary summary{.stats = GoodStats(), .problems = {"a"}};
  const Json json = ParseJson(SummaryJson(summary));
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["problems"], Json::array({"a"}));
  EXPECT_EQ(json["stats"], ToJson(GoodStats()));
  EXPECT_EQ(json["skipped"], Json::object());
}

TEST(SummaryTest, TheJsonNamesEachSkippedKindOfChurnAndTheReason) {
  RunSummary summary;
  summary.skipped = {{ChurnKind::kMerge, "no KSM"}, {ChurnKind::kMigrate, "one node"}};
  EXPECT_EQ(ParseJson(SummaryJson(summary))["skipped"],
            ParseJson(R"({"merge": "no KSM", "migrate": "one node"})"));
}

TEST(SummaryTest, TheRequestedRateIsShownBesideTheAchievedOne) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};  // 307 operations
  summary.churned_us = 1000000;
  summary.options.churn.rates = {{ChurnKind::kDiscard, 200}, {ChurnKind::kForeign, 100}};
  EXPECT_THAT(SummaryText(summary), HasSubstr("307 operations (307/s of 300/s asked), discard"));
  summary.options.churn.rates = {{ChurnKind::kDiscard, 3070}};
  EXPECT_THAT(SummaryText(summary), HasSubstr("(307/s, only 10% of 3,070/s asked)"));
  EXPECT_EQ(ParseJson(SummaryJson(summary))["churn_rate"],
            ParseJson(R"({"asked": 3070.0, "done": 307.0})"));
  summary.options.replay_path = "record";
  EXPECT_THAT(SummaryText(summary), HasSubstr("307 operations (307/s), discard"));
}

// A run with an operation that was not declined.
RunSummary GoodSummary() {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.coverage.rows.emplace_back().operations = 1;
  return summary;
}

TEST(SummaryTest, ARunInWhichTheAuditRepairedSomethingIsNotCalledClean) {
  RunSummary summary = GoodSummary();
  summary.stats.audit.unobserved = 0;
  EXPECT_THAT(SummaryText(summary), HasSubstr("PASSED: nothing stale"));
  summary.stats.audit.unobserved = 57;
  EXPECT_THAT(SummaryText(summary),
              AllOf(HasSubstr("PASSED: the guest read nothing stale"),
                    HasSubstr("repaired 57 translations that no source could report"),
                    Not(HasSubstr("PASSED: nothing stale"))));
}

TEST(SummaryTest, ARunClaimsOnlyWhatWasLookedAt) {
  RunSummary summary = GoodSummary();
  summary.stats.audit.unobserved = 0;
  summary.stats.guest.pages_checked = 0;
  EXPECT_THAT(
      SummaryText(summary),
      AllOf(StartsWith("PASSED: the guest ended well, nothing leaked; the guest checked no page,"),
            Not(HasSubstr("nothing stale, nothing lost"))));
  ASSERT_NE(TotalOperations(summary.stats.churn.operations), 0u) << "declined ones count there";
  summary.coverage.rows[0].operations = 0;
  EXPECT_THAT(
      SummaryText(summary),
      HasSubstr("; no churn was done and the guest checked no page, so this shows nothing about"));
  summary.stats.guest.pages_checked = 5;
  EXPECT_THAT(
      SummaryText(summary),
      StartsWith("PASSED: the guest ended well, nothing leaked; no churn was done, so this shows"));
  summary.options.linux_guest = LinuxOptions{};
  summary.stats.guest.pages_checked = 0;
  EXPECT_THAT(
      SummaryText(summary),
      StartsWith("PASSED: Linux has powered off, nothing leaked; no churn was done, so this"));
  summary.stats.audit.unobserved = 57;
  EXPECT_THAT(SummaryText(summary),
              HasSubstr("no churn was done, so this shows nothing about memory that "
                        "moves.\n  The audit repaired 57 translations"));
}

TEST(SummaryTest, WhatTheHostHasDeclinedIsNamedWithItsKind) {
  RunSummary summary = GoodSummary();
  summary.stats.churn.operations = {
      {ChurnKind::kZap, 5}, {ChurnKind::kCollapse, 3}, {ChurnKind::kMove, 50}};
  summary.coverage.rows = {{.kind = ChurnKind::kZap, .operations = 5, .cells = {}},
                           {.kind = ChurnKind::kCollapse, .operations = 0, .cells = {}},
                           {.kind = ChurnKind::kMove, .operations = 8, .cells = {}}};
  EXPECT_THAT(SummaryText(summary),
              HasSubstr(", zap 5, collapse 3 (3 declined), move 50 (42 declined), seed "));
}

TEST(SummaryTest, OnlyTheVerdictIsColouredAndOnlyOnRequest) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  EXPECT_THAT(SummaryText(summary, true), HasSubstr("\x1b[1;32mPASSED\x1b[0m: "));
  EXPECT_THAT(SummaryText(summary, false), Not(HasSubstr("\x1b")));
  summary.problems = {"it leaks"};
  EXPECT_THAT(SummaryText(summary, true), HasSubstr("\x1b[1;31mFAILED\x1b[0m:\n  it leaks"));
}

TEST(SummaryTest, TheReasonForASkippedKindIsNotRepeated) {
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.skipped = {{ChurnKind::kMerge, "no KSM"}, {ChurnKind::kMigrate, "one node"}};
  EXPECT_THAT(SummaryText(summary),
              AllOf(HasSubstr("skipped: merge, migrate\n"), Not(HasSubstr("no KSM"))));
}

TEST(SummaryTest, TheJsonDescribesItsRunAlsoIfTheStartFailed) {
  RunOptions options;
  options.command_line = "underfoot run --seed 9";
  options.churn.text = "discard:5/s";
  options.churn.rates = {{ChurnKind::kDiscard, 5}};
  options.backing = Backing::kMemfd;
  options.seed = 9;
  const Json failed = ParseJson(StartFailureJson(options, "no KVM"));
  RunSummary summary{.stats = GoodStats(), .problems = {}};
  summary.options = options;
  const Json passed = ParseJson(SummaryJson(summary));
  for (const Json& json : {failed, passed}) {
    EXPECT_EQ(json["run"]["version"], "0.1.0");
    EXPECT_EQ(json["run"]["command_line"], "underfoot run --seed 9");
    EXPECT_EQ(json["run"]["backing"], "memfd");
    EXPECT_EQ(json["run"]["churn"], "discard:5/s");
    EXPECT_EQ(json["run"]["rates"]["discard"], 5);
    EXPECT_EQ(json["run"]["seed"], 9);
    EXPECT_EQ(json["run"]["duration_ms"], 10000);
    EXPECT_EQ(json["run"]["guest"], "mixed");
  }
  EXPECT_EQ(failed["passed"], false);
  EXPECT_EQ(failed["problems"], Json::array({"no KVM"}));
}

}  // namespace
}  // namespace underfoot::testing
