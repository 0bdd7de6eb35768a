// The Prometheus text, read back line by line the way a scraper does.

#include "vmm/control/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "tests/control/fake_target.h"
#include "vmm/control/json.h"

namespace underfoot::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;

struct Exposition {
  std::map<std::string, std::string> types;  // of the families
  std::map<std::string, double> samples;     // by name and labels
};

std::string FamilyOf(const std::string& sample, const Exposition& exposition) {
  const std::string name = sample.substr(0, sample.find('{'));
  if (exposition.types.contains(name)) return name;
  for (const char* suffix : {"_bucket", "_sum", "_count"}) {
    if (!name.ends_with(suffix)) continue;
    const std::string base = name.substr(0, name.size() - std::string(suffix).size());
    if (exposition.types.contains(base)) return base;
  }
  return "";
}

double ParseValue(const std::string& text) {
  if (text == "+Inf") return std::numeric_limits<double>::infinity();
  size_t used = 0;
  const double value = std::stod(text, &used);
  EXPECT_EQ(used, text.size()) << text;
  return value;
}

// Fails on anything that is not exposition format 0.0.4.
Exposition Parse(const std::string& text) {
  Exposition exposition;
  EXPECT_TRUE(text.ends_with('\n'));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# HELP ")) continue;
    if (line.starts_with("# TYPE ")) {
      std::istringstream words(line.substr(7));
      std::string name;
      std::string type;
      words >> name >> type;
      EXPECT_TRUE(exposition.types.emplace(name, type).second) << "family twice: " << name;
      continue;
    }
    const size_t space = line.rfind(' ');
    if (space == std::string::npos) {
      ADD_FAILURE() << "no sample: " << line;
      continue;
    }
    const std::string sample = line.substr(0, space);
    EXPECT_NE(FamilyOf(sample, exposition), "") << "sample before its # TYPE: " << line;
    EXPECT_TRUE(exposition.samples.emplace(sample, ParseValue(line.substr(space + 1))).second)
        << "sample twice: " << sample;
  }
  return exposition;
}

TEST(MetricsTest, TheTextParsesAndEveryNameHasThePrefix) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  EXPECT_GT(exposition.samples.size(), 60U);
  for (const auto& [name, type] : exposition.types) {
    EXPECT_TRUE(name.starts_with("underfoot_")) << name;
    for (const char c : name) EXPECT_TRUE(std::isalnum(c) != 0 || c == '_') << name;
  }
}

TEST(MetricsTest, CountersAndOnlyCountersEndInTotal) {
  for (const auto& [name, type] : Parse(PrometheusText(SomeStats())).types) {
    EXPECT_EQ(type == "counter", name.ends_with("_total")) << name << " is a " << type;
  }
}

// Every number of /v1/stats must be somewhere in /metrics, under the name that follows from it.
TEST(MetricsTest, EveryNumberOfTheStatsIsExportedUnderItsName) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  const std::set<std::string> in_seconds = {"vm_uptime_us",          "memslots_update_wait_us_max",
                                            "rcu_oldest_us",         "audit_sweep_us",
                                            "working_set_period_us", "working_set_scan_us",
                                            "dirty_log_period_us",   "dirty_log_collect_us",
                                            "balloon_idle_us",       "guest_memory_age_us",
                                            "hotplug_idle_us"};
  const Json stats = ToJson(SomeStats());
  for (const auto& [group, fields] : stats.items()) {
    for (const auto& [field, value] : fields.items()) {
      if (!value.is_number()) continue;
      std::string name = field == "count" ? group : group + "_" + field;
      double expected = value.get<double>();
      if (in_seconds.contains(name)) {
        name.replace(name.find("_us"), 3, "_seconds");
        expected *= 1e-6;
      }
      const std::string gauge = "underfoot_" + name;
      const std::string counter = gauge + "_total";
      ASSERT_NE(exposition.samples.contains(gauge), exposition.samples.contains(counter)) << name;
      const double found =
          exposition.samples.at(exposition.samples.contains(gauge) ? gauge : counter);
      EXPECT_DOUBLE_EQ(found, expected) << name;
    }
  }
}

// The rules of `promtool check metrics` that a name, a type and a help text can break.
TEST(MetricsTest, NamesFollowTheRulesOfPromtool) {
  const std::string text = PrometheusText(SomeStats());
  const std::set<std::string> abbreviations = {"s",  "ms", "us", "ns", "sec", "b", "kb",
                                               "mb", "gb", "tb", "pb", "m",   "h", "d"};
  const std::set<std::string> other_units = {"milliseconds", "microseconds", "nanoseconds",
                                             "minutes",      "hours",        "days",
                                             "kilobytes",    "bits"};
  for (const auto& [name, type] : Parse(text).types) {
    EXPECT_THAT(text, HasSubstr("# HELP " + name + " ")) << "no help text";
    EXPECT_FALSE(text.find("# HELP " + name + " \n") != std::string::npos) << name;
    EXPECT_EQ(name.find("__"), std::string::npos) << name;
    if (type != "histogram") {
      for (const char* suffix : {"_count", "_sum", "_bucket"}) {
        EXPECT_FALSE(name.ends_with(suffix)) << name << " is no histogram";
      }
    }
    std::istringstream parts(name);
    for (std::string part; std::getline(parts, part, '_');) {
      EXPECT_NE(part, type) << name << " names its type";
      EXPECT_FALSE(abbreviations.contains(part)) << name << " has an abbreviated unit";
      EXPECT_FALSE(other_units.contains(part)) << name << " is not in the base unit";
      for (const char c : part) EXPECT_EQ(std::isupper(c), 0) << name;
    }
  }
}

TEST(MetricsTest, ASampleAboveTheLastBoundIsInTheInfiniteBucketOnly) {
  Stats stats;
  LatencyHistogram latency;
  latency.Record(uint64_t{1} << 38);
  stats.uffd.fault_us = latency.Snapshot();
  int empty = 0;
  for (const auto& [name, value] : Parse(PrometheusText(stats)).samples) {
    if (!name.starts_with("underfoot_uffd_fault_seconds_bucket")) continue;
    EXPECT_EQ(value, name.find("+Inf") != std::string::npos ? 1 : 0) << name;
    empty += value == 0 ? 1 : 0;
  }
  EXPECT_GT(empty, 10);
}

TEST(MetricsTest, WhatIsNowIsAGauge) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  for (const char* name :
       {"stage2_leaves_4k", "stage2_leaves_2m", "stage2_tables", "notifier_in_flight", "memslots",
        "memslots_generation", "rcu_pending_tables", "rcu_pending_bytes", "rcu_peak_bytes",
        "rcu_cap_bytes", "working_set_touched", "stage2_leaves_1g", "pfn_caches",
        "dirty_log_waiting"}) {
    EXPECT_EQ(exposition.types.at(std::string("underfoot_") + name), "gauge");
  }
}

TEST(MetricsTest, ChurnOperationsAreLabelledByKind) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  EXPECT_EQ(exposition.samples.at(R"(underfoot_churn_operations_total{kind="discard"})"), 153);
  for (const ChurnKindInfo& info : kChurnKinds) {
    EXPECT_THAT(exposition.samples, Contains(Key("underfoot_churn_operations_total{kind=\"" +
                                                 std::string(info.name) + "\"}")));
  }
}

TEST(MetricsTest, ForeignKernelRecordsAreLabelledByCause) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  for (size_t i = 0; i < kHostCauses; ++i) {
    const std::string name =
        "underfoot_kernel_causes_total{cause=\"" + std::string(kHostCauseNames[i]) + "\"}";
    EXPECT_EQ(exposition.samples.at(name), 184 + static_cast<double>(i));
  }
}

TEST(MetricsTest, TheFaultHistogramIsCumulativeAndInSeconds) {
  const Exposition exposition = Parse(PrometheusText(SomeStats()));
  EXPECT_EQ(exposition.types.at("underfoot_uffd_fault_seconds"), "histogram");
  EXPECT_EQ(exposition.samples.at("underfoot_uffd_fault_seconds_count"), 4);
  EXPECT_DOUBLE_EQ(exposition.samples.at("underfoot_uffd_fault_seconds_sum"), 107e-6);
  std::map<double, double> buckets;
  for (const auto& [name, value] : exposition.samples) {
    constexpr std::string_view kStart = "underfoot_uffd_fault_seconds_bucket{le=\"";
    if (!name.starts_with(kStart)) continue;
    buckets[ParseValue(name.substr(kStart.size(), name.size() - kStart.size() - 2))] = value;
  }
  EXPECT_LT(std::next(buckets.rbegin())->first, 100) << "seconds; nobody waits for longer";
  EXPECT_EQ(buckets.begin()->second, 1);
  EXPECT_TRUE(std::isinf(buckets.rbegin()->first));
  EXPECT_EQ(buckets.rbegin()->second, 4);
  double before = 0;
  for (const auto& [bound, count] : buckets) {
    EXPECT_GE(count, before);
    before = count;
  }
  EXPECT_EQ(buckets.lower_bound(3.9e-6)->second, 3);
}

TEST(MetricsTest, ANameCannotBreakOutOfItsLabel) {
  Stats stats = SomeStats();
  stats.vm.name = "a\"} 1\nevil 2\\";
  const Exposition exposition = Parse(PrometheusText(stats));
  EXPECT_FALSE(exposition.samples.contains("evil"));
}

}  // namespace
}  // namespace underfoot::testing
