#include "vmm/control/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <limits>
#include <utility>
#include <vector>

namespace underfoot {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr double kMicro = 1e-6;

struct Sample {
  const char* name;  // without the prefix; a counter's ends in _total
  const char* help;
  uint64_t value;
};

std::vector<Sample> CountersOf(const Stats& s) {
  return {
      {"guest_pages_checked_total", "Pages the guest has verified", s.guest.pages_checked},
      {"guest_mismatches_total", "Pages that read as what they may never be", s.guest.mismatches},
      {"pfn_caches_hits_total", "Accesses through a valid pfn cache", s.pfn_caches.hits},
      {"pfn_caches_misses_total", "Accesses that found a cache invalid", s.pfn_caches.misses},
      {"pfn_caches_refreshes_total", "Refreshes of pfn caches", s.pfn_caches.refreshes},
      {"pfn_caches_refresh_retries_total", "Look-ups done again after an overlapping invalidation",
       s.pfn_caches.refresh_retries},
      {"pfn_caches_invalidations_total", "Pfn caches made invalid", s.pfn_caches.invalidations},
      {"pfn_caches_prechecks_total", "Prechecks for overlap", s.pfn_caches.prechecks},
      {"pfn_caches_precheck_overlaps_total", "Prechecks that found an overlap",
       s.pfn_caches.precheck_overlaps},
      {"pfn_caches_reader_waits_total", "Invalidations that waited for a reader",
       s.pfn_caches.reader_waits},
      {"pfn_caches_reader_membarriers_total", "Memory barriers by which readers lost their bias",
       s.pfn_caches.reader_membarriers},
      {"stage2_maps_total", "Leaves mapped", s.stage2.maps},
      {"stage2_unmaps_total", "Leaves unmapped", s.stage2.unmaps},
      {"stage2_walk_retries_total", "Walks that lost a race and began again",
       s.stage2.walk_retries},
      {"stage2_flushes_total", "Flushes of the readers of the table", s.stage2.flushes},
      {"notifier_begins_total", "Invalidations begun", s.notifier.begins},
      {"notifier_ends_total", "Invalidations ended", s.notifier.ends},
      {"notifier_sequence_total", "Brackets ended", s.notifier.sequence},
      {"notifier_stray_ends_total", "Ends without a begin", s.notifier.stray_ends},
      {"memslots_updates_total", "Memslot updates", s.memslots.updates},
      {"rcu_retired_total", "Table pages retired", s.rcu.retired},
      {"rcu_freed_total", "Table pages freed after a grace period", s.rcu.freed},
      {"uffd_missing_total", "Faults on absent pages", s.uffd.missing},
      {"uffd_wp_total", "Faults on write-protected pages", s.uffd.wp},
      {"uffd_minor_total", "Minor faults", s.uffd.minor},
      {"uffd_around_total", "Pages brought in beside one that was faulted on", s.uffd.around},
      {"uffd_removes_total", "Remove events", s.uffd.removes},
      {"uffd_unmaps_total", "Unmap events", s.uffd.unmaps},
      {"uffd_remaps_total", "Remap events", s.uffd.remaps},
      {"uffd_forks_total", "Fork events", s.uffd.forks},
      {"uffd_eagain_total", "Resolutions put behind a pending event", s.uffd.eagain},
      {"uffd_reordered_total", "Faults read before the removal they followed", s.uffd.reordered},
      {"uffd_lost_copies_repaired_total", "Copied pages that were zapped again, and repaired",
       s.uffd.lost_copies_repaired},
      {"uffd_freed_lazily_total", "Pages of MADV_FREE found gone by a fault, and repaired",
       s.uffd.freed_lazily},
      {"uffd_settled_by_record_total", "Foreign removals that the kernel's record of them ended",
       s.uffd.settled_by_record},
      {"audit_checks_total", "Translations compared with the kernel's answer", s.audit.checks},
      {"kernel_records_total", "What the kernel's notifier told of guest memory", s.kernel.records},
      {"kernel_unmaps_total", "Ranges that lost their translations", s.kernel.unmaps},
      {"kernel_ages_total", "Ranges asked for their accessed bit", s.kernel.ages},
      {"kernel_known_total", "Unmaps that another source had told of", s.kernel.known},
      {"kernel_foreign_total", "Unmaps that only the kernel told of", s.kernel.foreign},
      {"kernel_invalidated_total", "Times that the kernel's word dropped a translation",
       s.kernel.invalidated},
      {"kernel_lost_total", "Records that the kernel had no room for", s.kernel.lost},
      {"kernel_resyncs_total", "Invalidations of all guest memory after a loss", s.kernel.resyncs},
      {"audit_cache_checks_total", "Pfn caches compared with the kernel's answer",
       s.audit.cache_checks},
      {"audit_sweeps_total", "Audits of every page", s.audit.sweeps},
      {"audit_in_flight_total", "Looks put off, since something changed", s.audit.in_flight},
      {"audit_differences_total", "Translations that were wrong", s.audit.differences},
      {"audit_explained_uffd_total", "Differences that a userfaultfd event explains",
       s.audit.explained_uffd},
      {"audit_explained_kernel_total", "Differences that a kernel record explains",
       s.audit.explained_kernel},
      {"audit_unobserved_total", "Differences that no enabled source could have told",
       s.audit.unobserved},
      {"audit_unexplained_total", "Differences that a source should have told",
       s.audit.unexplained},
      {"audit_missed_by_hooks_total", "Unexplained, and the hooks' to tell",
       s.audit.missed_by_hooks},
      {"audit_missed_by_uffd_total", "Unexplained, and userfaultfd's to tell",
       s.audit.missed_by_uffd},
      {"working_set_scans_total", "Scans of guest memory for what was touched",
       s.working_set.scans},
      {"audit_missed_by_kernel_total", "Unexplained, and the kernel notifier's to tell",
       s.audit.missed_by_kernel},
  };
}

std::vector<Sample> GaugesOf(const Stats& s) {
  return {
      {"vm_vcpus", "Virtual CPUs", s.vm.vcpus},
      {"working_set_pages", "Pages that are sampled", s.working_set.pages},
      {"working_set_touched", "Pages that the last scan found touched", s.working_set.touched},
      {"vm_memory_bytes", "Guest memory", s.vm.memory_bytes},
      {"pfn_caches_count", "Pfn caches listed", s.pfn_caches.count},
      {"stage2_leaves_4k", "4 KiB leaves mapped", s.stage2.leaves_4k},
      {"stage2_leaves_2m", "2 MiB leaves mapped", s.stage2.leaves_2m},
      {"stage2_leaves_1g", "1 GiB leaves mapped", s.stage2.leaves_1g},
      {"stage2_tables", "Table pages", s.stage2.tables},
      {"notifier_in_flight", "Invalidations in flight", s.notifier.in_flight},
      {"memslots_count", "Memslots", s.memslots.count},
      {"memslots_generation", "Generation of the memslot set", s.memslots.generation},
      {"rcu_pending_tables", "Table pages that wait for a grace period", s.rcu.pending_tables},
      {"rcu_pending_bytes", "Bytes that wait for a grace period", s.rcu.pending_bytes},
      {"rcu_peak_bytes", "The most bytes that waited for a grace period at once", s.rcu.peak_bytes},
      {"kernel_enabled", "1 while the kernel's notifier is listened to",
       s.kernel.enabled ? uint64_t{1} : uint64_t{0}},
      {"churn_seed", "Seed of the churn schedule", s.churn.seed},
      {"churn_running", "1 while the churn runs", s.churn.running ? uint64_t{1} : uint64_t{0}},
  };
}

ClientMetric GaugeMetric(double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.gauge.value = value;
  metric.label = std::move(labels);
  return metric;
}

MetricFamily Family(std::string_view name, std::string_view help, MetricType type) {
  return {"underfoot_" + std::string(name), std::string(help), type, {}};
}

MetricFamily Gauge(std::string_view name, std::string_view help, double value,
                   std::vector<ClientMetric::Label> labels = {}) {
  MetricFamily family = Family(name, help, MetricType::Gauge);
  family.metric.push_back(GaugeMetric(value, std::move(labels)));
  return family;
}

MetricFamily VmStateFamily(const Stats& stats) {
  MetricFamily family = Family("vm_state", "1 for the state the machine is in", MetricType::Gauge);
  for (const VmState state :
       {VmState::kStarting, VmState::kRunning, VmState::kPaused, VmState::kStopped}) {
    family.metric.push_back(
        GaugeMetric(state == stats.vm.state ? 1 : 0, {{"state", std::string(VmStateName(state))}}));
  }
  return family;
}

MetricFamily VerdictFamily(const Stats& stats) {
  MetricFamily family = Family("guest_verdict", "1 for the guest's verdict", MetricType::Gauge);
  for (const GuestVerdict verdict :
       {GuestVerdict::kPending, GuestVerdict::kGood, GuestVerdict::kBad}) {
    family.metric.push_back(GaugeMetric(verdict == stats.guest.verdict ? 1 : 0,
                                        {{"verdict", std::string(GuestVerdictName(verdict))}}));
  }
  return family;
}

MetricFamily ChurnFamily(const ChurnCounts& operations) {
  MetricFamily family =
      Family("churn_operations_total", "Churn operations done, by kind", MetricType::Counter);
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto found = operations.find(info.kind);
    ClientMetric metric;
    metric.label = {{"kind", std::string(info.name)}};
    metric.counter.value = found == operations.end() ? 0 : static_cast<double>(found->second);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

MetricFamily CauseFamily(const KernelStats& kernel) {
  MetricFamily family = Family(
      "kernel_causes_total", "Unmaps that only the kernel told of, by cause", MetricType::Counter);
  for (size_t i = 0; i < kHostCauses; ++i) {
    ClientMetric metric;
    metric.label = {{"cause", std::string(kHostCauseNames[i])}};
    metric.counter.value = static_cast<double>(kernel.causes[i]);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

MetricFamily Histogram(std::string_view name, std::string_view help,
                       const LatencySnapshot& latency) {
  MetricFamily family = Family(name, help, MetricType::Histogram);
  ClientMetric metric;
  metric.histogram.sample_count = latency.count;
  metric.histogram.sample_sum = static_cast<double>(latency.sum_us) * kMicro;
  uint64_t cumulative = 0;
  // Every bucket, each time: a series must not come and go between two scrapes.
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i) {
    if (i < latency.buckets.size()) cumulative += latency.buckets[i].count;
    const auto bound_us = static_cast<double>(LatencyHistogram::UpperBoundOf(i));
    metric.histogram.bucket.push_back({cumulative, bound_us * kMicro});
  }
  metric.histogram.bucket.back() = {latency.count, std::numeric_limits<double>::infinity()};
  family.metric.push_back(std::move(metric));
  return family;
}

}  // namespace

std::string PrometheusText(const Stats& stats) {
  std::vector<MetricFamily> families;
  families.push_back(Gauge("vm_info", "The machine, as labels", 1,
                           {{"name", stats.vm.name},
                            {"kvm_vendor", stats.vm.kvm_vendor},
                            {"workload", stats.guest.workload}}));
  families.push_back(VmStateFamily(stats));
  families.push_back(VerdictFamily(stats));
  families.push_back(Gauge("vm_uptime_seconds", "Since the machine was made",
                           static_cast<double>(stats.vm.uptime_us) * kMicro));
  families.push_back(Gauge("memslots_update_wait_seconds_max", "The longest wait of an update",
                           static_cast<double>(stats.memslots.update_wait_us_max) * kMicro));
  families.push_back(Gauge("rcu_oldest_seconds", "How long the oldest retired table has waited",
                           static_cast<double>(stats.rcu.oldest_us) * kMicro));
  families.push_back(Gauge("audit_sweep_seconds", "How long the last audit of every page took",
                           static_cast<double>(stats.audit.sweep_us) * kMicro));
  families.push_back(Gauge("working_set_period_seconds", "Between two scans",
                           static_cast<double>(stats.working_set.period_us) * kMicro));
  families.push_back(Gauge("working_set_scan_seconds", "How long the last scan took",
                           static_cast<double>(stats.working_set.scan_us) * kMicro));
  for (const Sample& sample : GaugesOf(stats)) {
    families.push_back(Gauge(sample.name, sample.help, static_cast<double>(sample.value)));
  }
  for (const Sample& sample : CountersOf(stats)) {
    MetricFamily family = Family(sample.name, sample.help, MetricType::Counter);
    ClientMetric metric;
    metric.counter.value = static_cast<double>(sample.value);
    family.metric.push_back(std::move(metric));
    families.push_back(std::move(family));
  }
  families.push_back(ChurnFamily(stats.churn.operations));
  families.push_back(CauseFamily(stats.kernel));
  families.push_back(Histogram("uffd_fault_seconds", "From the read of a fault to its resolution",
                               stats.uffd.fault_us));
  families.push_back(Histogram("kernel_lag_seconds",
                               "From the start of a change until its record was acted upon",
                               stats.kernel.lag_us));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace underfoot
