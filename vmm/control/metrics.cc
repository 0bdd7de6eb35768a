#include "vmm/control/metrics.h"

#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "vmm/stats/stat_table.h"

namespace underfoot {
namespace {

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

std::string Escaped(const std::string& label) {
  return absl::StrReplaceAll(label, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}});
}

// One metric with its samples, as text.
class Family {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  Family(const std::string& name, std::string_view help, const char* type)
      : name_("underfoot_" + name),
        text_(absl::StrFormat("# HELP %s %s\n# TYPE %s %s\n", name_, help, name_, type)) {}

  // `suffix` follows the name. 16 digits: every count up to 10^16 is exact.
  void Add(const char* suffix, const Labels& labels, double value) {
    text_ += name_ + suffix;
    char before = '{';
    for (const auto& [label, text] : labels) {
      absl::StrAppendFormat(&text_, "%c%s=\"%s\"", before, label, Escaped(text));
      before = ',';
    }
    absl::StrAppendFormat(&text_, "%s %.16g\n", labels.empty() ? "" : "}", value);
  }
  void Add(double value) { Add("", {}, value); }

  void AddHistogram(const LatencySnapshot& latency) {
    Add("_count", {}, static_cast<double>(latency.count));
    Add("_sum", {}, static_cast<double>(latency.sum_us) * kMicro);
    uint64_t cumulative = 0;
    // Writes all buckets every time: a series must not appear and disappear between two scrapes.
    for (size_t i = 0; i < kFiniteBuckets; ++i) {
      if (i < latency.buckets.size()) cumulative += latency.buckets[i].count;
      const double bound = static_cast<double>(LatencyHistogram::UpperBoundOf(i)) * kMicro;
      Add("_bucket", {{"le", absl::StrFormat("%.16g", bound)}}, static_cast<double>(cumulative));
    }
    Add("_bucket", {{"le", "+Inf"}}, static_cast<double>(latency.count));
  }

  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  const std::string name_;
  std::string text_;
};

// Adds the samples of one row to its family.
struct SampleAdder {
  const StatRow& row;
  Family& family;

  void operator()(uint64_t value) const { family.Add(InBaseUnit(row.unit, value)); }
  void operator()(bool value) const { family.Add(value ? 1 : 0); }
  void operator()(const LatencySnapshot* value) const { family.AddHistogram(*value); }
  void operator()(const StatByName& by) const {
    for (const auto& [name, value] : by.values) {
      family.Add("", {{std::string(by.label), std::string(name)}}, static_cast<double>(value));
    }
  }
  void operator()(const StatChoice& choice) const {
    for (const std::string_view name : choice.all) {
      family.Add("", {{std::string(row.field), std::string(name)}}, name == choice.chosen ? 1 : 0);
    }
  }
  // A text is not a sample. It is a fact, and facts are labels of underfoot_vm_info.
  void operator()(std::string_view) const {}
};

std::string FamilyOf(const StatRow& row, const Stats& stats) {
  const StatValue value = row.read(stats);
  const bool histogram = std::holds_alternative<const LatencySnapshot*>(value);
  const bool counter = row.kind == StatKind::kCounter && !histogram;
  Family family(MetricName(row) + (counter ? "_total" : ""), row.help,
                histogram ? "histogram"
                : counter ? "counter"
                          : "gauge");
  std::visit(SampleAdder{row, family}, value);
  return family.text();
}

// An alert must identify the machine: its names are labels of one series.
std::string InfoFamily(const Stats& stats) {
  Family family("vm_info", "The machine, as labels", "gauge");
  family.Add("",
             {{"name", stats.vm.name},
              {"kvm_vendor", stats.vm.kvm_vendor},
              {"workload", stats.guest.workload}},
             1);
  return family.text();
}

}  // namespace

std::string PrometheusText(const Stats& stats) {
  std::string text = InfoFamily(stats);
  for (const StatRow& row : StatTable()) {
    if (row.kind != StatKind::kFact) text += FamilyOf(row, stats);
  }
  return text;
}

}  // namespace underfoot
