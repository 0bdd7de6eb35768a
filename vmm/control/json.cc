#include "vmm/control/json.h"

#include <linux/kvm.h>

#include <array>
#include <bit>
#include <cstring>
#include <variant>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "vmm/stats/stat_table.h"

namespace underfoot {
namespace {

std::string Hex(uint64_t value) { return absl::StrFormat("0x%x", value); }

Json ToJson(const ChurnRates& rates) {
  Json json = Json::object();
  for (const auto& [kind, rate] : rates) json[std::string(ChurnKindName(kind))] = rate;
  return json;
}

// One overload for each alternative of StatValue.
Json ToJson(uint64_t value) { return value; }
Json ToJson(bool value) { return value; }
Json ToJson(std::string_view value) { return value; }
Json ToJson(const LatencySnapshot* value) { return ToJson(*value); }
Json ToJson(const StatChoice& choice) { return choice.chosen; }
Json ToJson(const StatByName& by) {
  Json json = Json::object();
  for (const auto& [name, value] : by.values) json[std::string(name)] = value;
  return json;
}

Json ValueOf(const StatRow& row, const Stats& stats) {
  return std::visit([](const auto& value) { return ToJson(value); }, row.read(stats));
}

Json GroupOf(const Stats& stats, std::string_view group) {
  Json json = Json::object();
  for (const StatRow& row : StatTable()) {
    if (row.group == group) json[std::string(row.field)] = ValueOf(row, stats);
  }
  return json;
}

std::string_view Name(CacheState state) {
  switch (state) {
    case CacheState::kInactive:
      return "inactive";
    case CacheState::kInvalid:
      return "invalid";
    case CacheState::kPending:
      return "pending";
    case CacheState::kValid:
      return "valid";
  }
  return "unknown";
}

std::string_view Name(Stage2EntryKind kind) {
  switch (kind) {
    case Stage2EntryKind::kHole:
      return "hole";
    case Stage2EntryKind::kTable:
      return "table";
    case Stage2EntryKind::kLeaf:
      return "leaf";
    case Stage2EntryKind::kClaim:
      return "claim";
  }
  return "unknown";
}

Json ToJson(const CacheInfo& cache) {
  return {{"name", cache.name},
          {"key", cache.key == CacheKey::kGpa ? "gpa" : "hva"},
          {"address", Hex(cache.address)},
          {"bytes", cache.bytes},
          {"state", Name(cache.state)},
          {"hva", cache.hva.has_value() ? Json(Hex(cache.hva->value)) : Json()},
          {"pfn", cache.pfn.has_value() ? Json(cache.pfn->value) : Json()},
          {"refreshes", cache.refreshes},
          {"invalidations", cache.invalidations}};
}

Json ToJson(const MemslotInfo& memslot) {
  Json flags = Json::array();
  if ((memslot.flags & KVM_MEM_LOG_DIRTY_PAGES) != 0) flags.push_back("log_dirty_pages");
  if ((memslot.flags & KVM_MEM_READONLY) != 0) flags.push_back("readonly");
  return {{"id", memslot.id},
          {"gfn_begin", memslot.range.begin.value},
          {"gfn_end", memslot.range.end.value},
          {"pages", memslot.range.size()},
          {"hva", Hex(memslot.hva.value)},
          {"flags", flags},
          {"generation", memslot.generation}};
}

Json ToJson(const Stage2Leaf& leaf) {
  return {{"pfn", leaf.pfn.value},
          {"level", leaf.level},
          {"access", leaf.access == Access::kWrite ? "rw" : "r"},
          {"young", leaf.young},
          {"dirty", leaf.dirty},
          {"hva", Hex(leaf.hva.value)}};
}

}  // namespace

Json ToJson(const LatencySnapshot& latency) {
  Json buckets = Json::array();
  for (const LatencyBucket& bucket : latency.buckets) {
    buckets.push_back({{"le_us", bucket.le_us}, {"count", bucket.count}});
  }
  return {{"p50", latency.p50},     {"p99", latency.p99},       {"max", latency.max},
          {"count", latency.count}, {"sum_us", latency.sum_us}, {"buckets", buckets}};
}

Json ToJson(const Stats& stats) {
  Json json = Json::object();
  for (const StatRow& row : StatTable()) {
    json[std::string(row.group)][std::string(row.field)] = ValueOf(row, stats);
  }
  return json;
}

Json ToJson(const std::vector<CacheInfo>& caches) {
  Json list = Json::array();
  for (const CacheInfo& cache : caches) list.push_back(ToJson(cache));
  return {{"caches", list}};
}

Json ToJson(const std::vector<MemslotInfo>& memslots) {
  Json list = Json::array();
  for (const MemslotInfo& memslot : memslots) list.push_back(ToJson(memslot));
  return {{"memslots", list}};
}

Json ToJson(const Stage2Walk& walk) {
  Json steps = Json::array();
  for (const Stage2Step& step : walk.steps) {
    steps.push_back({{"level", step.level}, {"entry", Name(step.kind)}, {"raw", Hex(step.raw)}});
  }
  return {{"gfn", walk.gfn.value},
          {"steps", steps},
          {"leaf", walk.leaf.has_value() ? ToJson(*walk.leaf) : Json()},
          {"reason", walk.leaf.has_value() ? Json() : Json(walk.reason)}};
}

Json ToJson(const WorkingSetInfo& set) {
  uint64_t pages = 0;
  uint64_t touched = 0;
  Json slots = Json::array();
  for (const WorkingSetSlot& slot : set.slots) {
    if (slot.touched.has_value()) {
      pages += slot.range.size();
      touched += *slot.touched;
    }
    slots.push_back({{"id", slot.id},
                     {"gfn_begin", slot.range.begin.value},
                     {"pages", slot.range.size()},
                     {"touched", slot.touched.has_value() ? Json(*slot.touched) : Json()}});
  }
  return {{"sees", set.sees_reads ? "accesses" : "writes"},
          {"period_us", set.period_us},
          {"scans", set.scans},
          {"covered_us", set.covered_us},
          {"pages", pages},
          {"touched", touched},
          {"slots", slots}};
}

Json ToJson(const DirtyInfo& dirty) {
  uint64_t pages = 0;
  uint64_t last = 0;
  uint64_t waiting = 0;
  Json slots = Json::array();
  for (const DirtySlot& slot : dirty.slots) {
    pages += slot.range.size();
    last += slot.last;
    waiting += slot.waiting;
    slots.push_back({{"id", slot.id},
                     {"gfn_begin", slot.range.begin.value},
                     {"pages", slot.range.size()},
                     {"last", slot.last},
                     {"waiting", slot.waiting}});
  }
  return {{"period_us", dirty.period_us},
          {"collections", dirty.collections},
          {"age_us", dirty.age_us},
          {"pages", pages},
          {"last", last},
          {"waiting", waiting},
          {"slots", slots}};
}

Json ToJson(const DirtyPages& taken) {
  constexpr uint64_t kPagesPerByte = 8;
  uint64_t dirty = 0;
  std::string bytes;
  for (const uint64_t word : taken.words) {
    dirty += static_cast<uint64_t>(std::popcount(word));
    for (unsigned shift = 0; shift < 64; shift += kPagesPerByte) {
      bytes.push_back(static_cast<char>(word >> shift & 0xff));
    }
  }
  bytes.resize((taken.pages + kPagesPerByte - 1) / kPagesPerByte);
  return {{"collections", taken.collections},
          {"gfn_begin", 0},
          {"pages", taken.pages},
          {"dirty", dirty},
          {"bitmap", absl::BytesToHexString(bytes)}};
}

Json ToJson(const VmInfo& vm) {
  Json unavailable = Json::object();
  for (const auto& [kind, why] : vm.churn_limits.unavailable) {
    unavailable[std::string(ChurnKindName(kind))] = why;
  }
  Json result;
  if (vm.result.has_value()) {
    result = {{"result", RunEndName(vm.result->end)},
              {"exit_code", ExitCodeOf(vm.result->end)},
              {"problems", vm.result->problems}};
  }
  return {{"name", vm.name},
          {"pid", vm.pid},
          {"state", VmStateName(vm.state)},
          {"vcpus", vm.vcpus},
          {"memory_bytes", vm.memory_bytes},
          {"backing", BackingName(vm.churn_limits.backing)},
          {"huge_pages", HugePagesName(vm.churn_limits.huge_pages)},
          {"guest", vm.guest},
          {"kvm_vendor", vm.kvm_vendor},
          {"uptime_us", vm.uptime_us},
          {"real_pfns", vm.real_pfns},
          {"unavailable_churn", unavailable},
          {"result", result}};
}

Json ToJson(const CoverageMatrix& matrix) {
  constexpr std::array<std::string_view, 3> kDuties = {"none", "may", "must"};
  Json sources = Json::object();
  Json others = Json::object();
  for (size_t i = 0; i < kEventSources; ++i) {
    sources[std::string(kEventSourceNames[i])] = matrix.sources[i] ? "on" : "off";
    others[std::string(kEventSourceNames[i])] = matrix.others[i];
  }
  Json kinds = Json::array();
  for (const CoverageRow& row : matrix.rows) {
    Json seen = Json::object();
    for (size_t i = 0; i < kEventSources; ++i) {
      const CoverageCell& cell = row.cells[i];
      seen[std::string(kEventSourceNames[i])] = {{"duty", kDuties[static_cast<size_t>(cell.duty)]},
                                                 {"events", cell.events},
                                                 {"lag_us", ToJson(cell.lag_us)}};
    }
    kinds.push_back({{"kind", ChurnKindName(row.kind)},
                     {"operations", row.operations},
                     {"result", CoverageResultName(row.result)},
                     {"sources", seen}});
  }
  return {{"sources", sources}, {"kinds", kinds}, {"others", others}};
}

Json ToJson(const AllDevices& devices) {
  Json list = Json::array();
  for (const DeviceInfo& device : devices.virtio) {
    Json queues = Json::array();
    for (const DeviceQueueInfo& queue : device.queues) {
      queues.push_back({{"name", queue.name},
                        {"active", queue.active},
                        {"next_available", queue.next_available},
                        {"next_used", queue.next_used},
                        {"requests", queue.requests},
                        {"errors", queue.errors},
                        {"to_guest_bytes", queue.to_guest_bytes},
                        {"from_guest_bytes", queue.from_guest_bytes},
                        {"bounced", queue.bounced},
                        {"direct", queue.direct},
                        {"direct_again", queue.direct_again},
                        {"file_errors", queue.file_errors},
                        {"kicks", queue.kicks},
                        {"interrupts", queue.interrupts},
                        {"refreshes", queue.refreshes},
                        {"refreshes_in_request", queue.refreshes_in_request},
                        {"away", queue.away},
                        {"shortages", queue.shortages}});
    }
    list.push_back({{"name", device.name},
                    {"id", device.id},
                    {"gpa", Hex(device.gpa.value)},
                    {"status", Hex(device.status)},
                    {"resets", device.resets},
                    {"needed_resets", device.needed_resets},
                    {"first_error", device.first_error},
                    {"queues", queues}});
  }
  Json pages = Json::array();
  for (const EventPageInfo& page : devices.event_pages) {
    pages.push_back({{"name", page.name},
                     {"gpa", Hex(page.gpa.value)},
                     {"open", page.open},
                     {"sent_fast", page.sent_fast},
                     {"handed_over", page.handed_over},
                     {"sent_slow", page.sent_slow},
                     {"time_updates", page.time_updates},
                     {"refreshes", page.refreshes}});
  }
  return {{"devices", list}, {"event_pages", pages}};
}

Json ToJson(const BalloonInfo& info) {
  Stats stats;
  stats.balloon = info.balloon;
  stats.guest_memory = info.guest;
  Json json = GroupOf(stats, "balloon");
  json["guest_memory"] = GroupOf(stats, "guest_memory");
  return json;
}

Json ToJson(const HotplugStats& hotplug) {
  Stats stats;
  stats.hotplug = hotplug;
  return GroupOf(stats, "hotplug");
}

Json ToJson(const EventInfo& info) {
  const HostEvent& event = info.event.event;
  Json gfns = Json::array();
  for (const GfnRange& range : info.gfns) {
    gfns.push_back({{"begin", range.begin.value}, {"end", range.end.value}});
  }
  return {{"number", info.event.number},
          {"source", EventSourceName(event.source)},
          {"change", HostChangeName(event.change)},
          {"call", std::string(event.call)},
          {"begin", Hex(event.range.begin.value)},
          {"end", Hex(event.range.end.value)},
          {"pages", event.range.size() >> kPageShift},
          {"gfns", gfns},
          {"happened_ns", event.happened_ns},
          {"lag_us", (event.taken_ns - event.happened_ns) / 1000},
          {"tid", event.tid},
          {"task", std::string(event.task.data(), strnlen(event.task.data(), event.task.size()))},
          {"cause", HostCauseName(event.cause)},
          {"known", event.known},
          {"invalidated", event.invalidated}};
}

Json ToJson(const ChurnState& churn) {
  return {{"running", churn.running},
          {"seed", churn.seed},
          {"rates", ToJson(churn.rates)},
          {"operations", ToJson(OperationsByKind(churn.operations))}};
}

Json ToJson(const ChurnRequest& request) {
  Json json = Json::object();
  if (request.running.has_value()) json["running"] = *request.running;
  if (request.seed.has_value()) json["seed"] = *request.seed;
  if (request.rates.has_value()) json["rates"] = ToJson(*request.rates);
  return json;
}

Json ParseJson(std::string_view text) {
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Pretty(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace underfoot
