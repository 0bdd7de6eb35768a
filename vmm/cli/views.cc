#include "vmm/cli/views.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/cli/table.h"
#include "vmm/cli/units.h"
#include "vmm/memory/host_event.h"

namespace underfoot {
namespace {

constexpr Align kLeft = Align::kLeft;
constexpr Align kRight = Align::kRight;

// Fields that are "now" and not totals: what they gain per second says nothing.
constexpr std::array<std::string_view, 25> kNotTotals = {
    "vcpus",        "memory_bytes", "uptime_us",      "count",         "leaves_4k",
    "leaves_2m",    "tables",       "in_flight",      "generation",    "update_wait_us_max",
    "seed",         "oldest_us",    "pending_tables", "pending_bytes", "fault_us.p50",
    "fault_us.p99", "fault_us.max", "lag_us.p50",     "lag_us.p99",    "lag_us.max",
    "sweep_us",     "period_us",    "scan_us",        "pages",         "touched"};

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

std::string WorkingSetView(const Json& set) {
  Table table({kRight, kRight, kRight, kRight, kRight});
  table.AddRow({"ID", "GFN", "SIZE", "TOUCHED", "SHARE"});
  const auto add = [&table](const std::string& id, const std::string& gfn, const Json& row) {
    const auto pages = row.at("pages").get<uint64_t>();
    if (row.at("touched").is_null()) {
      table.AddRow({id, gfn, FormatBytes(pages << kPageShift), "-", "not sampled"});
      return;
    }
    const auto touched = row.at("touched").get<uint64_t>();
    const double share =
        pages == 0 ? 0 : 100.0 * static_cast<double>(touched) / static_cast<double>(pages);
    table.AddRow({id, gfn, FormatBytes(pages << kPageShift), FormatBytes(touched << kPageShift),
                  absl::StrFormat("%.1f%%", share)});
  };
  for (const Json& slot : set.at("slots")) {
    add(Scalar("id", slot.at("id")), FrameText(slot.at("gfn_begin")), slot);
  }
  add("all", "", set);
  const bool reads = set.at("sees").get<std::string>() == "accesses";
  return absl::StrFormat("touched in the last %s, by %s scans; seen: %s\n",
                         FormatMicros(set.at("covered_us").get<uint64_t>()),
                         FormatCount(set.at("scans").get<uint64_t>()),
                         reads ? "accesses" : "writes, and pages that came in") +
         table.Text();
}

std::string CoverageView(const Json& coverage) {
  Table table({kLeft, kRight, kLeft, kLeft, kLeft, kLeft});
  std::vector<std::string> head = {"KIND", "DONE"};
  for (const auto& [source, state] : coverage.at("sources").items()) {
    head.push_back(source + (state == "on" ? "" : " (off)"));
  }
  head.emplace_back("RESULT");
  table.AddRow(head);
  for (const Json& row : coverage.at("kinds")) {
    const auto done = row.at("operations").get<uint64_t>();
    if (done == 0) continue;
    std::vector<std::string> cells = {row.at("kind").get<std::string>(), FormatCount(done)};
    for (const auto& [source, cell] : row.at("sources").items()) {
      const auto events = cell.at("events").get<uint64_t>();
      const std::string must = cell.at("duty") == "must" ? "!" : "";
      const Json& lag = cell.at("lag_us");
      cells.push_back(events == 0 ? "-" + must
                                  : absl::StrFormat("%s%s, %s / %s", FormatCount(events), must,
                                                    FormatMicros(lag.at("p50").get<uint64_t>()),
                                                    FormatMicros(lag.at("p99").get<uint64_t>())));
    }
    cells.push_back(row.at("result").get<std::string>());
    table.AddRow(cells);
  }
  return table.Text() + "events, lag p50 / p99; !: must see it\n";
}

std::string EventLine(const Json& event) {
  if (event.contains("lost")) {
    return absl::StrFormat("... %s events are missing here",
                           FormatCount(event.at("lost").get<uint64_t>()));
  }
  const double seconds = event.at("happened_ns").get<double>() * 1e-9;
  std::string line = absl::StrFormat(
      "%14.6f  %-6s %-13s %s  %s pages, lag %s", seconds, event.at("source").get<std::string>(),
      event.at("change").get<std::string>(), event.at("begin").get<std::string>(),
      FormatCount(event.at("pages").get<uint64_t>()),
      FormatMicros(event.at("lag_us").get<uint64_t>()));
  if (const auto task = event.at("task").get<std::string>(); !task.empty()) line += ", " + task;
  // An older machine tells none.
  const auto cause = event.value("cause", "unknown");
  if (cause != HostCauseName(HostCause::kUnknown)) line += " (" + cause + ")";
  if (event.at("known").get<bool>()) line += ", known";
  if (event.at("invalidated").get<bool>()) line += ", invalidated";
  return line;
}

std::string VmView(const Json& vm) {
  return absl::StrFormat("%s is %s\n", Scalar("name", vm.at("name")),
                         Scalar("state", vm.at("state")));
}

}  // namespace underfoot
