#include "vmm/cli/views.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_format.h"
#include "vmm/cli/table.h"
#include "vmm/cli/units.h"

namespace underfoot {
namespace {

constexpr Align kLeft = Align::kLeft;
constexpr Align kRight = Align::kRight;

// Fields that are "now" and not totals: what they gain per second says nothing.
constexpr std::array<std::string_view, 21> kNotTotals = {
    "vcpus",        "memory_bytes", "uptime_us",      "count",         "leaves_4k",
    "leaves_2m",    "tables",       "in_flight",      "generation",    "update_wait_us_max",
    "seed",         "oldest_us",    "pending_tables", "pending_bytes", "fault_us.p50",
    "fault_us.p99", "fault_us.max", "lag_us.p50",     "lag_us.p99",    "lag_us.max",
    "sweep_us"};

bool IsTotal(std::string_view field) {
  return std::find(kNotTotals.begin(), kNotTotals.end(), field) == kNotTotals.end();
}

std::string Scalar(std::string_view field, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_null()) return "-";
  if (value.is_number_integer() && value >= 0) {
    const auto number = value.get<uint64_t>();
    if (field.ends_with("_bytes") || field == "bytes") return FormatBytes(number);
    const bool micros = field.ends_with("_us") || field.ends_with("_us_max") ||
                        field.find("_us.p") != std::string_view::npos || field.ends_with("_us.max");
    if (micros) return FormatMicros(number);
    if (field == "seed" || field == "pid") return std::to_string(number);
    return FormatCount(number);
  }
  return Dump(value);
}

std::string PerSecond(double rate) {
  if (rate < 10) return absl::StrFormat("%.1f/s", rate);
  return FormatCount(static_cast<uint64_t>(rate)) + "/s";
}

// One row a field; a nested object becomes fields with a dot in their names.
class StatsRows {
 public:
  StatsRows(double seconds, Table* table) : seconds_(seconds), table_(table) {}

  void Add(const std::string& group, const std::string& prefix, const Json& fields,
           const Json* before) {
    for (const auto& [key, value] : fields.items()) {
      const std::string field = prefix + key;
      const Json* const earlier = before != nullptr && before->is_object() && before->contains(key)
                                      ? &before->at(key)
                                      : nullptr;
      if (value.is_array()) continue;  // buckets
      if (value.is_object()) {
        Add(group, field + ".", value, earlier);
        continue;
      }
      table_->AddRow({group == last_group_ ? "" : group, field, Scalar(field, value),
                      Gain(field, value, earlier)});
      last_group_ = group;
    }
  }

 private:
  std::string Gain(const std::string& field, const Json& value, const Json* before) const {
    if (before == nullptr || seconds_ <= 0 || !IsTotal(field)) return "";
    if (!value.is_number_unsigned() || !before->is_number_unsigned()) return "";
    const auto now = value.get<uint64_t>();
    const auto then = before->get<uint64_t>();
    return now <= then ? "" : PerSecond(static_cast<double>(now - then) / seconds_);
  }

  const double seconds_;
  Table* const table_;
  std::string last_group_;
};

std::string FrameText(const Json& frame) {
  return frame.is_number_unsigned() ? absl::StrFormat("0x%x", frame.get<uint64_t>()) : "-";
}

}  // namespace

std::string StatsView(const Json& now, const Json* before) {
  double seconds = 0;
  if (before != nullptr) {
    const double uptime = now.at("vm").at("uptime_us").get<double>();
    seconds = (uptime - before->at("vm").at("uptime_us").get<double>()) * 1e-6;
  }
  Table table({kLeft, kLeft, kRight, kRight});
  StatsRows rows(seconds, &table);
  for (const auto& [group, fields] : now.items()) {
    const bool known = before != nullptr && before->contains(group);
    rows.Add(group, "", fields, known ? &before->at(group) : nullptr);
  }
  return table.Text();
}

std::string CachesView(const Json& answer) {
  Table table({kLeft, kLeft, kRight, kRight, kLeft, kRight, kRight, kRight, kRight});
  table.AddRow(
      {"NAME", "KEY", "ADDRESS", "BYTES", "STATE", "HVA", "PFN", "REFRESHES", "INVALIDATIONS"});
  for (const Json& cache : answer.at("caches")) {
    table.AddRow({cache.at("name").get<std::string>(), cache.at("key").get<std::string>(),
                  cache.at("address").get<std::string>(),
                  FormatCount(cache.at("bytes").get<uint64_t>()),
                  cache.at("state").get<std::string>(), Scalar("hva", cache.at("hva")),
                  FrameText(cache.at("pfn")), Scalar("refreshes", cache.at("refreshes")),
                  Scalar("invalidations", cache.at("invalidations"))});
  }
  return table.Text();
}

std::string MemslotsView(const Json& answer) {
  Table table({kRight, kRight, kRight, kRight, kRight, kRight, kLeft});
  table.AddRow({"ID", "GFN", "END", "SIZE", "HVA", "GENERATION", "FLAGS"});
  for (const Json& slot : answer.at("memslots")) {
    std::string flags;
    for (const Json& flag : slot.at("flags")) {
      if (!flags.empty()) flags += ",";
      flags += flag.get<std::string>();
    }
    const auto pages = slot.at("pages").get<uint64_t>();
    table.AddRow({Scalar("id", slot.at("id")), FrameText(slot.at("gfn_begin")),
                  FrameText(slot.at("gfn_end")), FormatBytes(pages << kPageShift),
                  slot.at("hva").get<std::string>(), Scalar("generation", slot.at("generation")),
                  flags.empty() ? "-" : flags});
  }
  return table.Text();
}

std::string Stage2View(const Json& walk) {
  Table table({kRight, kLeft, kRight});
  table.AddRow({"LEVEL", "ENTRY", "RAW"});
  for (const Json& step : walk.at("steps")) {
    table.AddRow({Scalar("level", step.at("level")), step.at("entry").get<std::string>(),
                  step.at("raw").get<std::string>()});
  }
  std::string text = absl::StrFormat("gfn %s\n%s", FrameText(walk.at("gfn")), table.Text());
  const Json& leaf = walk.at("leaf");
  if (leaf.is_null()) {
    return text + "not mapped: " + Scalar("reason", walk.at("reason")) + "\n";
  }
  return text + absl::StrFormat("mapped to pfn %s, hva %s, %s%s%s\n", FrameText(leaf.at("pfn")),
                                leaf.at("hva").get<std::string>(),
                                leaf.at("access").get<std::string>(),
                                leaf.at("young").get<bool>() ? ", young" : "",
                                leaf.at("dirty").get<bool>() ? ", dirty" : "");
}

std::string ChurnView(const Json& churn) {
  Table table({kLeft, kRight, kRight});
  table.AddRow({"KIND", "RATE", "DONE"});
  const Json& rates = churn.at("rates");
  for (const auto& [kind, done] : churn.at("operations").items()) {
    const std::string rate = rates.contains(kind) ? PerSecond(rates.at(kind).get<double>()) : "off";
    table.AddRow({kind, rate, FormatCount(done.get<uint64_t>())});
  }
  const bool running = churn.at("running").get<bool>();
  return absl::StrFormat("churn %s, seed %s\n", running ? "runs" : "is stopped",
                         Scalar("seed", churn.at("seed"))) +
         table.Text();
}

std::string VmView(const Json& vm) {
  return absl::StrFormat("%s is %s\n", Scalar("name", vm.at("name")),
                         Scalar("state", vm.at("state")));
}

}  // namespace underfoot
