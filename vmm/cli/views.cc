#include "vmm/cli/views.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "vmm/cli/table.h"
#include "vmm/cli/units.h"
#include "vmm/evidence/host_event.h"
#include "vmm/stats/stat_table.h"

namespace underfoot {
namespace {

constexpr Align kLeft = Align::kLeft;
constexpr Align kRight = Align::kRight;

// Whether the increase of the field per second is meaningful. `field` may be a part:
// "fault_us.p99".
bool IsTotal(std::string_view group, std::string_view field) {
  const std::string_view whole = field.substr(0, field.find('.'));
  const std::string_view part = field.substr(std::min(field.size(), whole.size() + 1));
  const StatRow* const row = FindStat(group, whole);
  if (row != nullptr && row->kind != StatKind::kCounter) return false;
  return part != "p50" && part != "p99" && part != "max" && part != "sum_us";
}

enum class FieldUnit : uint8_t { kNone, kBytes, kMicros };

FieldUnit UnitOf(std::string_view field) {
  if (field.ends_with("_bytes") || field == "bytes") return FieldUnit::kBytes;
  const bool micros = field.ends_with("_us") || field.ends_with("_us_max") ||
                      field.find("_us.p") != std::string_view::npos || field.ends_with("_us.max");
  return micros ? FieldUnit::kMicros : FieldUnit::kNone;
}

std::string Scalar(std::string_view field, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_null()) return "-";
  if (value.is_number_integer() && value >= 0) {
    const auto number = value.get<uint64_t>();
    if (UnitOf(field) == FieldUnit::kBytes) return FormatBytes(number);
    if (UnitOf(field) == FieldUnit::kMicros) return FormatMicros(number);
    if (field == "seed" || field == "pid") return std::to_string(number);
    return FormatCount(number);
  }
  return Dump(value);
}

// If the value is shown with its unit, the name is shown without it: "uptime 12.3 s".
std::string NameShown(const std::string& field) {
  if (UnitOf(field) == FieldUnit::kBytes) return absl::StrReplaceAll(field, {{"_bytes", ""}});
  const bool of_times = field.find("_us.") != std::string::npos;  // "fault_us.count"
  if (of_times || UnitOf(field) == FieldUnit::kMicros)
    return absl::StrReplaceAll(field, {{"_us", ""}});
  return field;
}

// If another field of the group has the shorter name: "plugged_size" beside "plugged", which counts
// blocks.
std::string NameShown(const std::string& field, const Json& group) {
  std::string name = NameShown(field);
  return name != field && group.contains(name) ? name + "_size" : name;
}

std::string PerSecond(double rate) {
  if (rate < 10) return absl::StrFormat("%.1f/s", rate);
  return FormatCount(static_cast<uint64_t>(rate)) + "/s";
}

struct StatsField {
  std::string group;
  std::string name;  // parts of a nested object have a dot: "fault_us.p99"
  const Json* value;
  bool changed = false;
  double rate = 0;  // the increase of a total per second
};

bool IsZero(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "";
}

class StatsFields {
 public:
  StatsFields(const Json& now, const Json* before, const StatsLook& look) : look_(look) {
    if (before != nullptr) {
      const double uptime = now.at("vm").at("uptime_us").get<double>();
      seconds_ = (uptime - before->at("vm").at("uptime_us").get<double>()) * 1e-6;
    }
    for (const auto& [group, fields] : now.items()) {
      if (look.group.empty() || look.group == group) Add(group, "", fields, In(before, group));
    }
  }

  std::vector<StatsField> Take() { return std::move(fields_); }

 private:
  static const Json* In(const Json* before, const std::string& key) {
    const bool known = before != nullptr && before->is_object() && before->contains(key);
    return known ? &before->at(key) : nullptr;
  }

  void Add(const std::string& group, const std::string& prefix, const Json& fields,
           const Json* before) {
    for (const auto& [key, value] : fields.items()) {
      if (value.is_array()) continue;  // buckets
      const Json* const earlier = In(before, key);
      if (value.is_object()) {
        Add(group, prefix + key + ".", value, earlier);
      } else if (!look_.nonzero || !IsZero(value)) {
        fields_.push_back({group, prefix + key, &value, earlier != nullptr && *earlier != value,
                           Rate(group, prefix + key, value, earlier)});
      }
    }
  }

  double Rate(std::string_view group, std::string_view field, const Json& value,
              const Json* before) const {
    if (before == nullptr || seconds_ <= 0 || !IsTotal(group, field)) return 0;
    if (!value.is_number_unsigned() || !before->is_number_unsigned()) return 0;
    const auto now = value.get<uint64_t>();
    const auto then = before->get<uint64_t>();
    return now <= then ? 0 : static_cast<double>(now - then) / seconds_;
  }

  const StatsLook& look_;
  double seconds_ = 0;
  std::vector<StatsField> fields_;
};

// First the fields that change fastest, then other changed fields, then those that are not zero,
// then the rest.
void SortByChange(std::vector<StatsField>& fields) {
  const auto rank = [](const StatsField& field) {
    if (field.rate > 0) return 0;
    if (field.changed) return 1;
    return IsZero(*field.value) ? 3 : 2;
  };
  std::stable_sort(fields.begin(), fields.end(), [&](const StatsField& a, const StatsField& b) {
    return rank(a) != rank(b) ? rank(a) < rank(b) : a.rate > b.rate;
  });
}

std::string CsvCell(const Json& value) {
  std::string text = value.is_string() ? value.get<std::string>() : Dump(value);
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return "\"" + absl::StrReplaceAll(text, {{"\"", "\"\""}}) + "\"";
}

std::string FrameText(const Json& frame) {
  return frame.is_number_unsigned() ? absl::StrFormat("0x%x", frame.get<uint64_t>()) : "-";
}

}  // namespace

std::string StatsView(const Json& now, const Json* before, const StatsLook& look) {
  std::vector<StatsField> fields = StatsFields(now, before, look).Take();
  const bool cut = look.rows != 0 && fields.size() > look.rows;
  size_t shown = fields.size();
  if (cut) {
    SortByChange(fields);
    shown = look.rows - 1;
  }
  TextTable table({kLeft, kLeft, kRight, kRight});
  std::string last;
  for (size_t i = 0; i < shown; ++i) {
    const StatsField& field = fields[i];
    table.AddRow({field.group == last && !cut ? "" : field.group,
                  NameShown(field.name, now.at(field.group)), Scalar(field.name, *field.value),
                  field.rate > 0 ? PerSecond(field.rate) : ""});
    last = field.group;
  }
  if (!cut) return table.Text();
  return table.Text() + absl::StrFormat("... %d more: underfoot stats [GROUP] [--nonzero]\n",
                                        fields.size() - shown);
}

std::string StatsCsv(const Json& now, const StatsLook& look, std::vector<std::string>* names) {
  const std::vector<StatsField> fields = StatsFields(now, nullptr, look).Take();
  std::map<std::string, std::string> cells;
  const bool first = names->empty();
  for (const StatsField& field : fields) {
    const std::string name = field.group + "." + field.name;
    cells[name] = CsvCell(*field.value);
    if (first) names->push_back(name);
  }
  std::string line;
  for (const std::string& name : *names) line += cells[name] + ",";
  if (!line.empty()) line.pop_back();
  return (first ? absl::StrJoin(*names, ",") + "\n" : "") + line + "\n";
}

std::string CachesView(const Json& answer) {
  TextTable table({kLeft, kLeft, kRight, kRight, kLeft, kRight, kRight, kRight, kRight});
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
  TextTable table({kRight, kRight, kRight, kRight, kRight, kRight, kLeft});
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
  TextTable table({kRight, kLeft, kRight});
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
  TextTable table({kLeft, kRight, kRight});
  table.AddRow({"KIND", "RATE", "OPERATIONS"});
  const Json& rates = churn.at("rates");
  for (const auto& [kind, done] : churn.at("operations").items()) {
    const std::string rate = rates.contains(kind) ? PerSecond(rates.at(kind).get<double>()) : "off";
    table.AddRow({kind, rate, FormatCount(done.get<uint64_t>())});
  }
  const bool running = churn.at("running").get<bool>();
  const char* const state = rates.empty() ? "is off" : running ? "runs" : "is stopped";
  return absl::StrFormat("churn %s, seed %s; OPERATIONS: also those that the host declined\n",
                         state, Scalar("seed", churn.at("seed"))) +
         table.Text();
}

std::string WorkingSetView(const Json& set) {
  TextTable table({kRight, kRight, kRight, kRight, kRight});
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
  return absl::StrFormat("touched in the last %s, by %s; seen: %s\n",
                         FormatMicros(set.at("covered_us").get<uint64_t>()),
                         Counted(set.at("scans").get<uint64_t>(), "scan"),
                         reads ? "accesses" : "writes, and pages that came in") +
         table.Text();
}

std::string DevicesView(const Json& answer) {
  TextTable table({kLeft, kRight, kRight, kRight, kRight, kRight, kRight, kRight, kRight, kRight,
                   kRight, kRight});
  table.AddRow({"QUEUE", "NEXT", "REQUESTS", "ERRORS", "TO GUEST", "FROM GUEST", "DIRECT",
                "BOUNCED", "KICKS", "INTERRUPTS", "REFRESHES", "IN REQUEST"});
  std::string devices;
  for (const Json& device : answer.at("devices")) {
    absl::StrAppendFormat(&devices, "%s: registers at %s, status %s, %s by the driver, %s needed\n",
                          device.at("name").get<std::string>(), device.at("gpa").get<std::string>(),
                          device.at("status").get<std::string>(),
                          Counted(device.at("resets").get<uint64_t>(), "reset"),
                          Scalar("needed_resets", device.at("needed_resets")));
    if (const auto error = device.at("first_error").get<std::string>(); !error.empty()) {
      absl::StrAppend(&devices, "  the first error of its file: ", error, "\n");
    }
    for (const Json& queue : device.at("queues")) {
      table.AddRow(
          {queue.at("name").get<std::string>(),
           queue.at("active").get<bool>() ? Scalar("next_used", queue.at("next_used")) : "-",
           Scalar("requests", queue.at("requests")), Scalar("errors", queue.at("errors")),
           Scalar("to_guest_bytes", queue.at("to_guest_bytes")),
           Scalar("from_guest_bytes", queue.at("from_guest_bytes")),
           Scalar("direct", queue.at("direct")), Scalar("bounced", queue.at("bounced")),
           Scalar("kicks", queue.at("kicks")), Scalar("interrupts", queue.at("interrupts")),
           Scalar("refreshes", queue.at("refreshes")),
           Scalar("refreshes_in_request", queue.at("refreshes_in_request"))});
    }
  }
  devices = devices.empty() ? "no virtio devices\n" : devices + table.Text();
  const Json pages = answer.value("event_pages", Json::array());  // an older program has none
  if (pages.empty()) return devices;
  TextTable events({kLeft, kRight, kRight, kRight, kRight, kRight, kRight});
  events.AddRow(
      {"EVENT PAGE", "GPA", "SENT FAST", "HANDED OVER", "SENT SLOW", "TIMES", "REFRESHES"});
  for (const Json& page : pages) {
    const auto number = [&page](const char* name) { return Scalar(name, page.at(name)); };
    events.AddRow({page.at("name").get<std::string>(),
                   page.at("open").get<bool>() ? page.at("gpa").get<std::string>() : "closed",
                   number("sent_fast"), number("handed_over"), number("sent_slow"),
                   number("time_updates"), number("refreshes")});
  }
  return devices + events.Text();
}

namespace {

// 0: the answer has no such number.
uint64_t NumberIn(const Json& answer, const char* name) {
  return answer.is_object() && answer.value(name, Json()).is_number_unsigned()
             ? answer.at(name).get<uint64_t>()
             : 0;
}

}  // namespace

bool GuestIsOff(const Json& answer, const GuestTarget& target) {
  return NumberIn(answer, target.asked) != NumberIn(answer, target.reached);
}

bool GuestMoves(const Json& answer, const GuestTarget& target) {
  return GuestIsOff(answer, target) && NumberIn(answer, "idle_us") < kGuestPatienceUs;
}

std::string BalloonView(const Json& answer) {
  const auto target = answer.at("target_bytes").get<uint64_t>();
  const auto actual = answer.at("actual_bytes").get<uint64_t>();
  std::string text = absl::StrFormat(
      "the guest has given back %s of %s asked for; %s inflated, %s deflated, %s reported "
      "free, %s kept\n",
      FormatBytes(actual), FormatBytes(target),
      Counted(answer.at("inflated").get<uint64_t>(), "page"),
      Scalar("deflated", answer.at("deflated")), Scalar("reported", answer.at("reported")),
      Scalar("kept", answer.at("kept")));
  if (target != actual && !GuestMoves(answer, kBalloonTarget)) {
    absl::StrAppendFormat(&text,
                          "the guest has not reached the target and has changed nothing for %s; it "
                          "may have no more memory to give, or no balloon driver. The target stays "
                          "set; `underfoot balloon --set 0` withdraws it\n",
                          Scalar("idle_us", answer.at("idle_us")));
  }
  const Json& guest = answer.at("guest_memory");
  if (guest.at("reports").get<uint64_t>() == 0) return text;
  const auto bytes = [&guest](const char* name) {
    return FormatBytes(guest.at(name).get<uint64_t>());
  };
  absl::StrAppendFormat(
      &text,
      "the guest has reported %s ago: %s of memory, %s free, %s available, %s of caches; %s "
      "swapped in, %s out; %s\n",
      Scalar("age_us", guest.at("age_us")), bytes("total_bytes"), bytes("free_bytes"),
      bytes("available_bytes"), bytes("cache_bytes"), bytes("swap_in_bytes"),
      bytes("swap_out_bytes"), Counted(guest.at("major_faults").get<uint64_t>(), "major fault"));
  return text;
}

std::string MemoryView(const Json& answer) {
  const auto asked = answer.at("requested_bytes").get<uint64_t>();
  const auto plugged = answer.at("plugged_bytes").get<uint64_t>();
  std::string text = absl::StrFormat(
      "the guest has plugged %s of %s asked for, of %s at most; %s plugged, %s unplugged, "
      "%s busy, %s kept\n",
      FormatBytes(plugged), FormatBytes(asked),
      FormatBytes(answer.at("region_bytes").get<uint64_t>()),
      Counted(answer.at("plugged").get<uint64_t>(), "block"),
      Scalar("unplugged", answer.at("unplugged")), Scalar("busy", answer.at("busy")),
      Scalar("kept", answer.at("kept")));
  if (asked != plugged && !GuestMoves(answer, kMemoryTarget)) {
    absl::StrAppendFormat(
        &text,
        "the guest has not reached that and has changed nothing for %s; it may use "
        "what it shall unplug, or have no driver (virtio_mem). It goes on trying\n",
        Scalar("idle_us", answer.at("idle_us")));
  }
  return text;
}

std::string DirtyView(const Json& dirty) {
  TextTable table({kRight, kRight, kRight, kRight, kRight});
  table.AddRow({"ID", "GFN", "SIZE", "WRITTEN", "WAITING"});
  const auto add = [&table](const std::string& id, const std::string& gfn, const Json& row) {
    const auto size = [&row](const char* name) {
      return FormatBytes(row.at(name).get<uint64_t>() << kPageShift);
    };
    table.AddRow({id, gfn, size("pages"), size("last"), size("waiting")});
  };
  for (const Json& slot : dirty.at("slots")) {
    add(Scalar("id", slot.at("id")), FrameText(slot.at("gfn_begin")), slot);
  }
  add("all", "", dirty);
  return absl::StrFormat(
             "collection %s ended %s ago. WRITTEN: in this collection; WAITING: in this and "
             "earlier "
             "ones, and not taken yet\n",
             FormatCount(dirty.at("collections").get<uint64_t>()),
             FormatMicros(dirty.at("age_us").get<uint64_t>())) +
         table.Text();
}

std::string TakenView(const Json& taken) {
  constexpr uint64_t kPagesPerByte = 8;
  const std::string bytes = absl::HexStringToBytes(taken.at("bitmap").get<std::string>());
  const auto first = taken.at("gfn_begin").get<uint64_t>();
  const auto dirty = [&bytes](uint64_t page) {
    const uint64_t byte = page / kPagesPerByte;
    return byte < bytes.size() &&
           (static_cast<unsigned char>(bytes[byte]) >> page % kPagesPerByte & 1) != 0;
  };
  std::string text;
  for (uint64_t page = 0; page < bytes.size() * kPagesPerByte; ++page) {
    if (!dirty(page)) continue;
    const uint64_t begin = page;
    while (dirty(page)) ++page;
    absl::StrAppendFormat(&text, "0x%x 0x%x\n", first + begin, first + page);
  }
  return text;
}

std::string CoverageView(const Json& coverage) {
  TextTable table({kLeft, kRight, kLeft, kLeft, kLeft, kLeft});
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
  return table.Text() +
         "DONE: without those that the host declined; events, lag p50 / p99; !: must report it\n";
}

std::string EventLine(const Json& event) {
  if (event.contains("lost")) {
    const auto lost = event.at("lost").get<uint64_t>();
    return absl::StrFormat("... %s %s missing here", Counted(lost, "event"),
                           lost == 1 ? "is" : "are");
  }
  if (event.contains("clock")) {
    return absl::StrFormat("times are seconds of %s; now: %.6f",
                           event.at("clock").get<std::string>(),
                           event.at("now_ns").get<double>() * 1e-9);
  }
  const double seconds = event.at("happened_ns").get<double>() * 1e-9;
  std::string line = absl::StrFormat(
      "%14.6f  %-6s %-13s %s  %s, lag %s", seconds, event.at("source").get<std::string>(),
      event.at("change").get<std::string>(), event.at("begin").get<std::string>(),
      Counted(event.at("pages").get<uint64_t>(), "page"),
      FormatMicros(event.at("lag_us").get<uint64_t>()));
  // An older machine reports neither the call nor the cause.
  if (const auto call = event.value("call", ""); !call.empty()) line += ", by " + call;
  if (const auto task = event.at("task").get<std::string>(); !task.empty()) line += ", " + task;
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
