#include "vmm/control/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_replace.h"
#include "vmm/stats/stat_table.h"

namespace underfoot {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kMicro = 1e-6;
// The last bound is 67 s; longer times are counted only in +Inf.
constexpr size_t kFiniteBuckets = 27;
static_assert(kFiniteBuckets < LatencyHistogram::kBuckets);

// The name of a field of Stats at /metrics, see metrics.h.
std::string MetricName(const StatRow& row) {
  std::string name(row.group);
  if (row.field != "count") name.append("_").append(row.field);
  if (row.unit == StatUnit::kMicroseconds) name = absl::StrReplaceAll(name, {{"_us", "_seconds"}});
  return name;
}

double InBaseUnit(StatUnit unit, uint64_t value) {
  return static_cast<double>(value) * (unit == StatUnit::kMicroseconds ? kMicro : 1);
}

MetricFamily Family(const std::string& name, std::string_view help, MetricType type) {
  return {"underfoot_" + name, std::string(help), type, {}};
}

void AddSample(MetricFamily& family, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  metric.label = std::move(labels);
  family.metric.push_back(std::move(metric));
}

void AddHistogram(MetricFamily& family, const LatencySnapshot& latency) {
  ClientMetric metric;
  metric.histogram.sample_count = latency.count;
  metric.histogram.sample_sum = static_cast<double>(latency.sum_us) * kMicro;
  uint64_t cumulative = 0;
  // Writes all buckets every time: a series must not appear and disappear between two scrapes.
  for (size_t i = 0; i < kFiniteBuckets; ++i) {
    if (i < latency.buckets.size()) cumulative += latency.buckets[i].count;
    const auto bound_us = static_cast<double>(LatencyHistogram::UpperBoundOf(i));
    metric.histogram.bucket.push_back({cumulative, bound_us * kMicro});
  }
  metric.histogram.bucket.push_back({latency.count, std::numeric_limits<double>::infinity()});
  family.metric.push_back(std::move(metric));
}

// Adds the samples of one row to its family.
struct SampleAdder {
  const StatRow& row;
  MetricFamily& family;

  void operator()(uint64_t value) const { AddSample(family, InBaseUnit(row.unit, value)); }
  void operator()(bool value) const { AddSample(family, value ? 1 : 0); }
  void operator()(const LatencySnapshot* value) const { AddHistogram(family, *value); }
  void operator()(const StatByName& by) const {
    for (const auto& [name, value] : by.values) {
      AddSample(family, static_cast<double>(value), {{std::string(by.label), std::string(name)}});
    }
  }
  void operator()(const StatChoice& choice) const {
    for (const std::string_view name : choice.all) {
      AddSample(family, name == choice.chosen ? 1 : 0,
                {{std::string(row.field), std::string(name)}});
    }
  }
  // A text is not a sample. It is a fact, and facts are labels of underfoot_vm_info.
  void operator()(std::string_view) const {}
};

MetricFamily FamilyOf(const StatRow& row, const Stats& stats) {
  const StatValue value = row.read(stats);
  const bool histogram = std::holds_alternative<const LatencySnapshot*>(value);
  const bool counter = row.kind == StatKind::kCounter && !histogram;
  MetricFamily family = Family(MetricName(row) + (counter ? "_total" : ""), row.help,
                               histogram ? MetricType::Histogram
                               : counter ? MetricType::Counter
                                         : MetricType::Gauge);
  std::visit(SampleAdder{row, family}, value);
  return family;
}

// An alert must identify the machine: its names are labels of one series.
MetricFamily InfoFamily(const Stats& stats) {
  MetricFamily family = Family("vm_info", "The machine, as labels", MetricType::Gauge);
  AddSample(family, 1,
            {{"name", stats.vm.name},
             {"kvm_vendor", stats.vm.kvm_vendor},
             {"workload", stats.guest.workload}});
  return family;
}

}  // namespace

std::string PrometheusText(const Stats& stats) {
  std::vector<MetricFamily> families = {InfoFamily(stats)};
  for (const StatRow& row : StatTable()) {
    if (row.kind != StatKind::kFact) families.push_back(FamilyOf(row, stats));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace underfoot
