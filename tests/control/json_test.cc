// The names in /v1/stats are a promise: this list is the promise, the code is checked against it.

#include "vmm/control/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tests/control/fake_target.h"
#include "vmm/base/histogram.h"
#include "vmm/stats/stat_table.h"

namespace underfoot::testing {
namespace {

constexpr char kStats[] = R"({
  "vm": {"name": "vm-1", "vcpus": 102, "memory_bytes": 103, "state": "running", "uptime_us": 105,
         "kvm_vendor": "kvm_test"},
  "guest": {"workload": "stamp", "pages_checked": 108, "mismatches": 109, "verdict": "good"},
  "pfn_caches": {"count": 111, "hits": 112, "misses": 113, "refreshes": 114,
                 "refresh_retries": 115, "invalidations": 116, "prechecks": 117,
                 "precheck_overlaps": 118, "reader_waits": 119,
                 "reader_membarriers": 159},
  "stage2": {"leaves_4k": 120, "leaves_2m": 121, "tables": 122, "maps": 123, "unmaps": 124,
             "walk_retries": 125, "flushes": 126, "leaves_1g": 158},
  "notifier": {"begins": 127, "ends": 128, "in_flight": 129, "stray_ends": 131},
  "memslots": {"count": 132, "generation": 133, "updates": 134, "update_wait_us_max": 135},
  "rcu": {"retired": 136, "freed": 137, "pending_tables": 138, "pending_bytes": 139,
          "oldest_us": 140, "peak_bytes": 157, "cap_bytes": 399},
  "uffd": {"handlers": 2, "by_handler": {"0": 196, "1": 197}, "missing": 141, "wp": 142,
           "minor": 143, "around": 178, "blocks": 250, "block_fallbacks": 251, "removes": 144,
           "unmaps": 145, "remaps": 146, "forks": 147, "fork_waits": 195, "eagain": 148,
           "merged": 198, "put_off": 199, "cpu_samples": 214, "crossed_cpus": 215,
           "reordered": 149, "lost_copies_repaired": 150,
           "freed_lazily": 183, "settled_by_record": 190,
           "fault_us": {"p50": 4, "p99": 100, "max": 100, "count": 4, "sum_us": 107,
                        "buckets": [{"le_us": 1, "count": 1}, {"le_us": 2, "count": 0},
                                    {"le_us": 4, "count": 2}, {"le_us": 8, "count": 0},
                                    {"le_us": 16, "count": 0}, {"le_us": 32, "count": 0},
                                    {"le_us": 64, "count": 0}, {"le_us": 128, "count": 1}]}},
  "kernel": {"enabled": true, "why_not": "", "records": 159, "unmaps": 160, "ages": 161,
             "known": 162, "foreign": 163, "invalidated": 164, "lost": 165, "resyncs": 166,
             "causes": {"unknown": 184, "this-process": 185, "ksm": 186, "collapse": 187,
                        "compaction": 188, "swap-out": 189, "other-task": 190, "huge-page": 191},
             "lag_us": {"p50": 2, "p99": 2, "max": 2, "count": 1, "sum_us": 2,
                        "buckets": [{"le_us": 1, "count": 0}, {"le_us": 2, "count": 1}]}},
  "churn": {"seed": 151, "running": true,
            "operations": {"discard": 153, "zap": 0, "punch": 0, "free": 0, "pageout": 0,
                           "cold": 0, "collapse": 0, "split": 0, "merge": 0, "fork": 0,
                           "compact": 0, "migrate": 0, "move": 0, "remap": 0, "wp": 0, "protect":
                           0, "memslot": 0, "foreign": 154, "adversary": 0}},
  "audit": {"checks": 155, "cache_checks": 167, "sweeps": 168, "sweep_us": 169, "in_flight": 170,
            "differences": 156, "explained_uffd": 171, "explained_kernel": 172,
            "unobserved": 173, "unexplained": 174, "missed_by_hooks": 175, "missed_by_uffd": 176,
            "missed_by_kernel": 177},
  "working_set": {"enabled": true, "period_us": 178, "scans": 179, "scan_us": 180, "pages": 181,
                  "touched": 182},
  "devices": {"count": 200, "queues": 201, "requests": 202, "errors": 203, "checked": 204,
    "to_guest_bytes": 205, "from_guest_bytes": 206, "bounced": 207, "direct": 230,
    "direct_again": 231, "file_errors": 232, "kicks": 208,
    "interrupts": 209, "refreshes": 210, "refreshes_in_request": 211, "away": 212,
    "shortages": 233, "needed_resets": 213},
  "balloon": {"target_bytes": 240, "actual_bytes": 241, "inflated": 242, "deflated": 243,
    "reported": 244, "kept": 245, "idle_us": 246},
  "guest_memory": {"reports": 270, "age_us": 271, "swap_in_bytes": 272, "swap_out_bytes": 273,
    "major_faults": 274, "minor_faults": 275, "free_bytes": 276, "total_bytes": 277,
    "available_bytes": 278, "cache_bytes": 279, "hugetlb_allocations": 280,
    "hugetlb_failures": 281},
  "hotplug": {"region_bytes": 290, "requested_bytes": 291, "plugged_bytes": 292, "plugged": 293,
    "unplugged": 294, "waits": 299, "busy": 295, "refused": 296, "kept": 297, "idle_us": 298},
  "event_pages": {"open": 250, "sent_fast": {"vm": 251, "vcpu-0": 252},
    "handed_over": {"vm": 253, "vcpu-0": 254}, "sent_slow": {"vm": 255, "vcpu-0": 256},
    "refreshes": {"vm": 257, "vcpu-0": 258}, "taken": 259, "time_updates": 260},
  "dirty_log": {"enabled": true, "kvm": "bitmap", "period_us": 214, "collections": 215,
                "failures": 216, "collect_us": 217, "pages": 218, "from_kvm": 219,
                "from_memslots": 220, "from_ram": 221, "waiting": 222, "taken": 223,
                "given_back": 224, "checked": 225, "missed": 226, "needless": 227}
})";

TEST(JsonTest, StatsHaveTheStableNamesAndNothingMixedUp) {
  EXPECT_EQ(ToJson(SomeStats()), ParseJson(kStats));
}

TEST(JsonTest, StatsKeepTheOrderOfTheirStructs) {
  EXPECT_EQ(Dump(ToJson(SomeStats())), Dump(ParseJson(kStats)));
}

// docs/statistics.md, line by line, as the table of the statistics has it.
std::vector<std::string> LinesOfTheReference() {
  constexpr std::array<const char*, 3> kKinds = {"total", "now", "fact"};
  std::vector<std::string> lines;
  for (const StatRow& row : StatTable()) {
    lines.push_back(absl::StrFormat("| `%s.%s` | %s | %s |", std::string(row.group),
                                    std::string(row.field), kKinds[static_cast<size_t>(row.kind)],
                                    std::string(row.help)));
  }
  return lines;
}

TEST(JsonTest, TheReferenceHasEachFieldOfTheStatsAndNoOther) {
  std::ifstream file(UNDERFOOT_STATISTICS_REFERENCE);
  ASSERT_TRUE(file.is_open());
  std::vector<std::string> written;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `")) written.push_back(line);
  }
  EXPECT_EQ(written, LinesOfTheReference()) << "docs/statistics.md should have these lines:\n"
                                            << absl::StrJoin(LinesOfTheReference(), "\n");
}

TEST(JsonTest, TheRowsOfAGroupStandTogetherAndNoFieldComesTwice) {
  std::vector<std::string_view> groups;
  for (const StatRow& row : StatTable()) {
    EXPECT_EQ(FindStat(row.group, row.field), &row) << row.group << "." << row.field;
    if (groups.empty() || groups.back() != row.group) groups.push_back(row.group);
  }
  std::sort(groups.begin(), groups.end());
  EXPECT_EQ(std::adjacent_find(groups.begin(), groups.end()), groups.end());
}

TEST(JsonTest, AnEventNamesItsSourceAndCause) {
  FakeTarget target;
  target.HappenTo(0x7f0000001);
  const Json event = ToJson(target.GetEvents(0, 1).front());
  EXPECT_EQ(event["task"], "ksmd");
  EXPECT_EQ(event["cause"], "ksm");
  EXPECT_EQ(event["pages"], 1);
}

TEST(JsonTest, AnEventNamesTheGuestFramesAtItsAddress) {
  FakeTarget target;
  target.HappenTo(0x21);
  const Json event = ToJson(target.GetEvents(0, 1).front());
  EXPECT_EQ(event["gfns"], ParseJson(R"([{"begin": 33, "end": 34}, {"begin": 66, "end": 67}])"));
}

TEST(JsonTest, EveryStateAndVerdictHasAName) {
  Stats stats;
  for (const auto& [state, name] :
       {std::pair{VmState::kStarting, "starting"}, std::pair{VmState::kRunning, "running"},
        std::pair{VmState::kPaused, "paused"}, std::pair{VmState::kStopped, "stopped"}}) {
    stats.vm.state = state;
    EXPECT_EQ(ToJson(stats)["vm"]["state"], name);
  }
  for (const auto& [verdict, name] :
       {std::pair{GuestVerdict::kPending, "pending"}, std::pair{GuestVerdict::kGood, "good"},
        std::pair{GuestVerdict::kBad, "bad"}}) {
    stats.guest.verdict = verdict;
    EXPECT_EQ(ToJson(stats)["guest"]["verdict"], name);
  }
}

TEST(JsonTest, CountsKeepAll64Bits) {
  Stats stats;
  stats.stage2.maps = ~uint64_t{0};
  EXPECT_THAT(Dump(ToJson(stats)), ::testing::HasSubstr("\"maps\":18446744073709551615"));
}

TEST(JsonTest, BytesThatAreNoUtf8AreReplacedAndNotThrown) {
  Stats stats;
  stats.vm.name = "a\xff";
  EXPECT_THAT(Dump(ToJson(stats)), ::testing::HasSubstr("\"name\":\"a\xef\xbf\xbd\""));
}

TEST(JsonTest, AnEmptyListIsAList) {
  EXPECT_EQ(Dump(ToJson(std::vector<CacheInfo>{})), R"({"caches":[]})");
  EXPECT_EQ(Dump(ToJson(std::vector<MemslotInfo>{})), R"({"memslots":[]})");
}

TEST(HistogramTest, ABucketTakesUpToItsBoundInclusive) {
  EXPECT_EQ(LatencyHistogram::BucketOf(0), 0U);
  EXPECT_EQ(LatencyHistogram::BucketOf(1), 0U);
  for (size_t i = 1; i + 1 < LatencyHistogram::kBuckets; ++i) {
    EXPECT_EQ(LatencyHistogram::BucketOf(LatencyHistogram::UpperBoundOf(i)), i);
    EXPECT_EQ(LatencyHistogram::BucketOf(LatencyHistogram::UpperBoundOf(i) + 1), i + 1);
  }
  EXPECT_EQ(LatencyHistogram::BucketOf(~uint64_t{0}), LatencyHistogram::kBuckets - 1);
}

TEST(HistogramTest, AnEmptyOneIsAllZero) {
  EXPECT_EQ(LatencyHistogram().Snapshot(), LatencySnapshot());
}

TEST(HistogramTest, PercentilesAreTheUpperBoundOfTheirBucketAndAtMostTheMaximum) {
  LatencyHistogram histogram;
  for (int i = 0; i < 99; ++i) histogram.Record(5);
  histogram.Record(1000);
  LatencySnapshot snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.p50, 8U);
  EXPECT_EQ(snapshot.p99, 8U);
  EXPECT_EQ(snapshot.max, 1000U);
  histogram.Record(1000);
  snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.p99, 1000U);
  EXPECT_EQ(snapshot.count, 101U);
  EXPECT_EQ(snapshot.sum_us, 99 * 5 + 2000U);
}

}  // namespace
}  // namespace underfoot::testing
