#include "vmm/control/json.h"

#include <linux/kvm.h>

#include <array>
#include <cstring>

#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

std::string Hex(uint64_t value) { return absl::StrFormat("0x%x", value); }

Json ToJson(const ChurnCounts& operations) {
  Json json = Json::object();
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto found = operations.find(info.kind);
    json[std::string(info.name)] = found == operations.end() ? uint64_t{0} : found->second;
  }
  return json;
}

Json ToJson(const ChurnRates& rates) {
  Json json = Json::object();
  for (const auto& [kind, rate] : rates) json[std::string(ChurnKindName(kind))] = rate;
  return json;
}

Json ToJson(const VmStats& vm) {
  return {{"name", vm.name},
          {"vcpus", vm.vcpus},
          {"memory_bytes", vm.memory_bytes},
          {"state", VmStateName(vm.state)},
          {"uptime_us", vm.uptime_us},
          {"kvm_vendor", vm.kvm_vendor}};
}

Json ToJson(const GuestStats& guest) {
  return {{"workload", guest.workload},
          {"pages_checked", guest.pages_checked},
          {"mismatches", guest.mismatches},
          {"verdict", GuestVerdictName(guest.verdict)}};
}

Json ToJson(const PfnCacheStats& caches) {
  return {{"count", caches.count},
          {"hits", caches.hits},
          {"misses", caches.misses},
          {"refreshes", caches.refreshes},
          {"refresh_retries", caches.refresh_retries},
          {"invalidations", caches.invalidations},
          {"prechecks", caches.prechecks},
          {"precheck_overlaps", caches.precheck_overlaps},
          {"reader_waits", caches.reader_waits},
          {"reader_membarriers", caches.reader_membarriers}};
}

Json ToJson(const Stage2Stats& stage2) {
  return {{"leaves_4k", stage2.leaves_4k}, {"leaves_2m", stage2.leaves_2m},
          {"tables", stage2.tables},       {"maps", stage2.maps},
          {"unmaps", stage2.unmaps},       {"walk_retries", stage2.walk_retries},
          {"flushes", stage2.flushes},     {"leaves_1g", stage2.leaves_1g}};
}

Json ToJson(const NotifierStats& notifier) {
  return {{"begins", notifier.begins},
          {"ends", notifier.ends},
          {"in_flight", notifier.in_flight},
          {"sequence", notifier.sequence},
          {"stray_ends", notifier.stray_ends}};
}

Json ToJson(const MemslotStats& memslots) {
  return {{"count", memslots.count},
          {"generation", memslots.generation},
          {"updates", memslots.updates},
          {"update_wait_us_max", memslots.update_wait_us_max}};
}

Json ToJson(const RcuStats& rcu) {
  return {{"retired", rcu.retired},
          {"freed", rcu.freed},
          {"pending_tables", rcu.pending_tables},
          {"pending_bytes", rcu.pending_bytes},
          {"oldest_us", rcu.oldest_us},
          {"peak_bytes", rcu.peak_bytes}};
}

Json ToJson(const UffdStats& uffd) {
  return {{"missing", uffd.missing},
          {"wp", uffd.wp},
          {"minor", uffd.minor},
          {"around", uffd.around},
          {"removes", uffd.removes},
          {"unmaps", uffd.unmaps},
          {"remaps", uffd.remaps},
          {"forks", uffd.forks},
          {"eagain", uffd.eagain},
          {"reordered", uffd.reordered},
          {"lost_copies_repaired", uffd.lost_copies_repaired},
          {"freed_lazily", uffd.freed_lazily},
          {"settled_by_record", uffd.settled_by_record},
          {"fault_us", ToJson(uffd.fault_us)}};
}

Json ToJson(const KernelStats& kernel) {
  Json causes = Json::object();
  for (size_t i = 0; i < kHostCauses; ++i) {
    causes[std::string(kHostCauseNames[i])] = kernel.causes[i];
  }
  return {{"enabled", kernel.enabled}, {"why_not", kernel.why_not},
          {"records", kernel.records}, {"unmaps", kernel.unmaps},
          {"ages", kernel.ages},       {"known", kernel.known},
          {"foreign", kernel.foreign}, {"invalidated", kernel.invalidated},
          {"lost", kernel.lost},       {"resyncs", kernel.resyncs},
          {"causes", causes},          {"lag_us", ToJson(kernel.lag_us)}};
}

Json ToJson(const ChurnStats& churn) {
  return {
      {"seed", churn.seed}, {"running", churn.running}, {"operations", ToJson(churn.operations)}};
}

Json ToJson(const AuditStats& audit) {
  return {{"checks", audit.checks},
          {"cache_checks", audit.cache_checks},
          {"sweeps", audit.sweeps},
          {"sweep_us", audit.sweep_us},
          {"in_flight", audit.in_flight},
          {"differences", audit.differences},
          {"explained_uffd", audit.explained_uffd},
          {"explained_kernel", audit.explained_kernel},
          {"unobserved", audit.unobserved},
          {"unexplained", audit.unexplained},
          {"missed_by_hooks", audit.missed_by_hooks},
          {"missed_by_uffd", audit.missed_by_uffd},
          {"missed_by_kernel", audit.missed_by_kernel}};
}

Json ToJson(const WorkingSetStats& set) {
  return {{"enabled", set.enabled}, {"period_us", set.period_us}, {"scans", set.scans},
          {"scan_us", set.scan_us}, {"pages", set.pages},         {"touched", set.touched}};
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
  return {{"vm", ToJson(stats.vm)},
          {"guest", ToJson(stats.guest)},
          {"pfn_caches", ToJson(stats.pfn_caches)},
          {"stage2", ToJson(stats.stage2)},
          {"notifier", ToJson(stats.notifier)},
          {"memslots", ToJson(stats.memslots)},
          {"rcu", ToJson(stats.rcu)},
          {"uffd", ToJson(stats.uffd)},
          {"kernel", ToJson(stats.kernel)},
          {"churn", ToJson(stats.churn)},
          {"audit", ToJson(stats.audit)},
          {"working_set", ToJson(stats.working_set)}};
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

Json ToJson(const VmInfo& vm) {
  Json unavailable = Json::object();
  for (const auto& [kind, why] : vm.churn_limits.unavailable) {
    unavailable[std::string(ChurnKindName(kind))] = why;
  }
  return {{"name", vm.name},
          {"pid", vm.pid},
          {"state", VmStateName(vm.state)},
          {"vcpus", vm.vcpus},
          {"memory_bytes", vm.memory_bytes},
          {"backing", BackingName(vm.churn_limits.backing)},
          {"guest", vm.guest},
          {"kvm_vendor", vm.kvm_vendor},
          {"uptime_us", vm.uptime_us},
          {"real_pfns", vm.real_pfns},
          {"unavailable_churn", unavailable}};
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

Json ToJson(const NumberedEvent& numbered) {
  const HostEvent& event = numbered.event;
  return {{"number", numbered.number},
          {"source", EventSourceName(event.source)},
          {"change", HostChangeName(event.change)},
          {"begin", Hex(event.range.begin.value)},
          {"end", Hex(event.range.end.value)},
          {"pages", event.range.size() >> kPageShift},
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
          {"operations", ToJson(churn.operations)}};
}

Json ToJson(const ChurnRequest& request) {
  Json json = Json::object();
  if (request.running.has_value()) json["running"] = *request.running;
  if (request.seed.has_value()) json["seed"] = *request.seed;
  if (request.rates.has_value()) json["rates"] = ToJson(*request.rates);
  return json;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Pretty(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace underfoot
