#include "vmm/stats/stat_table.h"

#include <algorithm>
#include <array>
#include <concepts>
#include <string>
#include <type_traits>

namespace underfoot {
namespace {

StatValue ValueOf(bool value) { return value; }
StatValue ValueOf(const std::string& value) { return std::string_view(value); }
StatValue ValueOf(const LatencySnapshot& value) { return &value; }

template <std::unsigned_integral Number>
requires(!std::same_as<Number, bool>) StatValue ValueOf(Number value) { return uint64_t{value}; }

StatValue ValueOf(VmState value) {
  StatChoice choice{VmStateName(value), {}};
  for (const VmState state : {VmState::kStarting, VmState::kRunning, VmState::kPaused,
                              VmState::kEnding, VmState::kStopped}) {
    choice.all.push_back(VmStateName(state));
  }
  return choice;
}

StatValue ValueOf(GuestVerdict value) {
  StatChoice choice{GuestVerdictName(value), {}};
  for (const GuestVerdict verdict :
       {GuestVerdict::kPending, GuestVerdict::kGood, GuestVerdict::kBad, GuestVerdict::kNone}) {
    choice.all.push_back(GuestVerdictName(verdict));
  }
  return choice;
}

StatValue ValueOf(const ChurnCounts& operations) { return OperationsByKind(operations); }

StatValue ValueOf(const std::array<uint64_t, kHostCauses>& causes) {
  StatByName by{"cause", {}};
  for (size_t i = 0; i < kHostCauses; ++i) by.values.emplace_back(kHostCauseNames[i], causes[i]);
  return by;
}

constexpr std::array<std::string_view, kMostEventReaders> kHandlerNames = {"0", "1", "2", "3",
                                                                           "4", "5", "6", "7"};

StatValue ValueOf(const FaultsByHandler& by_handler) {
  StatByName by{"handler", {}};
  for (size_t i = 0; i < by_handler.handlers; ++i) {
    by.values.emplace_back(kHandlerNames[i], by_handler.faults[i]);
  }
  return by;
}

static_assert(abi::kMaxVcpus == 32);
constexpr std::array<std::string_view, 1 + abi::kMaxVcpus> kEventPageNames = {
    "vm",      "vcpu-0",  "vcpu-1",  "vcpu-2",  "vcpu-3",  "vcpu-4",  "vcpu-5",
    "vcpu-6",  "vcpu-7",  "vcpu-8",  "vcpu-9",  "vcpu-10", "vcpu-11", "vcpu-12",
    "vcpu-13", "vcpu-14", "vcpu-15", "vcpu-16", "vcpu-17", "vcpu-18", "vcpu-19",
    "vcpu-20", "vcpu-21", "vcpu-22", "vcpu-23", "vcpu-24", "vcpu-25", "vcpu-26",
    "vcpu-27", "vcpu-28", "vcpu-29", "vcpu-30", "vcpu-31"};

StatValue ValueOf(const ByEventPage& by_page) {
  StatByName by{"page", {}};
  for (size_t i = 0; i < by_page.pages; ++i) {
    by.values.emplace_back(kEventPageNames[i], by_page.values[i]);
  }
  return by;
}

template <auto kGroup, auto kField>
StatValue Read(const Stats& stats) {
  return ValueOf((stats.*kGroup).*kField);
}

constexpr StatKind kCounter = StatKind::kCounter;
constexpr StatKind kGauge = StatKind::kGauge;
constexpr StatKind kFact = StatKind::kFact;
constexpr StatUnit kNumber = StatUnit::kNumber;
constexpr StatUnit kBytes = StatUnit::kBytes;
constexpr StatUnit kMicros = StatUnit::kMicroseconds;

// A row of the group whose struct is TYPE. With this macro the name of a field is written only
// once.
#define ROW(TYPE, GROUP, FIELD, KIND, UNIT, HELP) \
  StatRow { #GROUP, #FIELD, KIND, UNIT, HELP, Read < &Stats::GROUP, &TYPE::FIELD> }

constexpr std::array kTable = {
    ROW(VmStats, vm, name, kFact, kNumber, "The machine's name"),
    ROW(VmStats, vm, vcpus, kGauge, kNumber, "Virtual CPUs"),
    ROW(VmStats, vm, memory_bytes, kGauge, kBytes, "Guest memory"),
    ROW(VmStats, vm, state, kGauge, kNumber, "The state that the machine is in"),
    ROW(VmStats, vm, uptime_us, kGauge, kMicros, "Time since the machine was made"),
    ROW(VmStats, vm, kvm_vendor, kFact, kNumber, "The module behind /dev/kvm"),

    ROW(GuestStats, guest, workload, kFact, kNumber, "The workload, or the file of an own guest"),
    ROW(GuestStats, guest, pages_checked, kCounter, kNumber, "Pages that the guest has verified"),
    ROW(GuestStats, guest, mismatches, kCounter, kNumber,
        "Pages whose content the guest found wrong"),
    ROW(GuestStats, guest, verdict, kGauge, kNumber,
        "The guest's verdict; none: it ended without one"),

    ROW(PfnCacheStats, pfn_caches, count, kGauge, kNumber, "Active pfn caches"),
    ROW(PfnCacheStats, pfn_caches, hits, kCounter, kNumber, "Accesses through a valid pfn cache"),
    ROW(PfnCacheStats, pfn_caches, misses, kCounter, kNumber,
        "Accesses that found their pfn cache invalid"),
    ROW(PfnCacheStats, pfn_caches, refreshes, kCounter, kNumber, "Refreshes of pfn caches"),
    ROW(PfnCacheStats, pfn_caches, refresh_retries, kCounter, kNumber,
        "Look-ups of a refresh repeated after an overlapping invalidation"),
    ROW(PfnCacheStats, pfn_caches, invalidations, kCounter, kNumber, "Pfn caches made invalid"),
    ROW(PfnCacheStats, pfn_caches, prechecks, kCounter, kNumber,
        "Prechecks for an overlapping pfn cache"),
    ROW(PfnCacheStats, pfn_caches, precheck_overlaps, kCounter, kNumber,
        "Prechecks that found an overlap"),
    ROW(PfnCacheStats, pfn_caches, reader_waits, kCounter, kNumber,
        "Invalidations that waited for a reader"),
    ROW(PfnCacheStats, pfn_caches, reader_membarriers, kCounter, kNumber,
        "Memory barriers by which all biased readers lost their bias"),

    ROW(Stage2Stats, stage2, leaves_4k, kGauge, kNumber,
        "4 KiB leaves mapped or being mapped, and those of tables unmapped whole and not yet "
        "freed"),
    ROW(Stage2Stats, stage2, leaves_2m, kGauge, kNumber, "2 MiB leaves mapped or being mapped"),
    ROW(Stage2Stats, stage2, tables, kGauge, kNumber, "Table pages, the root included"),
    ROW(Stage2Stats, stage2, maps, kCounter, kNumber, "Leaves mapped since start"),
    ROW(Stage2Stats, stage2, unmaps, kCounter, kNumber,
        "Leaves unmapped since start, and claims of faults that an unmap stole"),
    ROW(Stage2Stats, stage2, walk_retries, kCounter, kNumber,
        "Walks that lost a race and began again"),
    ROW(Stage2Stats, stage2, flushes, kCounter, kNumber, "Flushes of the readers of the table"),
    ROW(Stage2Stats, stage2, leaves_1g, kGauge, kNumber, "1 GiB leaves mapped or being mapped"),

    ROW(NotifierStats, notifier, begins, kCounter, kNumber, "Invalidations begun"),
    ROW(NotifierStats, notifier, ends, kCounter, kNumber, "Invalidations ended"),
    ROW(NotifierStats, notifier, in_flight, kGauge, kNumber, "Invalidations in flight"),
    ROW(NotifierStats, notifier, stray_ends, kCounter, kNumber, "Ends without a begin"),

    ROW(MemslotStats, memslots, count, kGauge, kNumber, "Memslots"),
    ROW(MemslotStats, memslots, generation, kGauge, kNumber, "Generation of the memslot set"),
    ROW(MemslotStats, memslots, updates, kCounter, kNumber, "Memslot updates"),
    ROW(MemslotStats, memslots, update_wait_us_max, kGauge, kMicros,
        "The longest wait of a memslot update"),

    ROW(RcuStats, rcu, retired, kCounter, kNumber, "Table pages retired"),
    ROW(RcuStats, rcu, freed, kCounter, kNumber, "Table pages freed after a grace period"),
    ROW(RcuStats, rcu, pending_tables, kGauge, kNumber, "Table pages that wait for a grace period"),
    ROW(RcuStats, rcu, pending_bytes, kGauge, kBytes, "Bytes that wait for a grace period"),
    ROW(RcuStats, rcu, oldest_us, kGauge, kMicros, "How long the oldest retired table has waited"),
    ROW(RcuStats, rcu, peak_bytes, kGauge, kBytes,
        "The most bytes that waited for a grace period at once"),
    ROW(RcuStats, rcu, cap_bytes, kGauge, kBytes,
        "The pending bytes above which a thread that retires tables waits"),

    ROW(UffdStats, uffd, handlers, kGauge, kNumber, "Threads that serve faults and read events"),
    ROW(UffdStats, uffd, by_handler, kCounter, kNumber, "Faults, by the handler that read them"),
    ROW(UffdStats, uffd, missing, kCounter, kNumber, "Faults on absent pages"),
    ROW(UffdStats, uffd, wp, kCounter, kNumber, "Faults on write-protected pages"),
    ROW(UffdStats, uffd, minor, kCounter, kNumber, "Minor faults"),
    ROW(UffdStats, uffd, around, kCounter, kNumber, "Pages brought in beside one that faulted"),
    ROW(UffdStats, uffd, blocks, kCounter, kNumber,
        "Faults that brought in a whole block as one leaf"),
    ROW(UffdStats, uffd, block_fallbacks, kCounter, kNumber,
        "Faults that were to bring in a block and brought in pages"),
    ROW(UffdStats, uffd, removes, kCounter, kNumber, "Remove events"),
    ROW(UffdStats, uffd, unmaps, kCounter, kNumber, "Unmap events"),
    ROW(UffdStats, uffd, remaps, kCounter, kNumber, "Remap events"),
    ROW(UffdStats, uffd, forks, kCounter, kNumber, "Fork events"),
    ROW(UffdStats, uffd, fork_waits, kCounter, kNumber,
        "Fork events that had to wait for a free descriptor"),
    ROW(UffdStats, uffd, eagain, kCounter, kNumber, "Resolutions put behind a pending event"),
    ROW(UffdStats, uffd, merged, kCounter, kNumber,
        "Faults on a page that another thread was bringing in"),
    ROW(UffdStats, uffd, put_off, kCounter, kNumber, "Faults that could not be resolved at once"),
    ROW(UffdStats, uffd, cpu_samples, kCounter, kNumber,
        "Faults for which the CPU of their thread was looked up, one in 256"),
    ROW(UffdStats, uffd, crossed_cpus, kCounter, kNumber,
        "Those of them whose handler ran on another CPU"),
    ROW(UffdStats, uffd, reordered, kCounter, kNumber,
        "Faults read before the removal that preceded them, by the same handler"),
    ROW(UffdStats, uffd, lost_copies_repaired, kCounter, kNumber,
        "Copied pages that were zapped again, and repaired"),
    ROW(UffdStats, uffd, freed_lazily, kCounter, kNumber,
        "Pages of MADV_FREE that a fault found gone, and repaired"),
    ROW(UffdStats, uffd, settled_by_record, kCounter, kNumber,
        "Foreign removals that the kernel's record of them ended"),
    ROW(UffdStats, uffd, fault_us, kCounter, kMicros,
        "Time from the read of a fault to its resolution"),

    ROW(KernelStats, kernel, enabled, kGauge, kNumber,
        "Whether the kernel's notifier is listened to"),
    ROW(KernelStats, kernel, why_not, kFact, kNumber, "The reason if it is not"),
    ROW(KernelStats, kernel, records, kCounter, kNumber,
        "Records of the kernel's notifier about guest memory"),
    ROW(KernelStats, kernel, unmaps, kCounter, kNumber,
        "Records of ranges that lost their translations"),
    ROW(KernelStats, kernel, ages, kCounter, kNumber,
        "Records of ranges asked for their accessed bit"),
    ROW(KernelStats, kernel, known, kCounter, kNumber, "Unmaps that another source had reported"),
    ROW(KernelStats, kernel, foreign, kCounter, kNumber, "Unmaps that only the kernel reported"),
    ROW(KernelStats, kernel, invalidated, kCounter, kNumber,
        "Kernel records that dropped a translation"),
    ROW(KernelStats, kernel, lost, kCounter, kNumber, "Records that the kernel had no room for"),
    ROW(KernelStats, kernel, resyncs, kCounter, kNumber,
        "Invalidations of all guest memory after a loss"),
    ROW(KernelStats, kernel, causes, kCounter, kNumber,
        "Unmaps that only the kernel reported, by cause"),
    ROW(KernelStats, kernel, lag_us, kCounter, kMicros,
        "Time from the start of a change until its record was acted upon"),

    ROW(ChurnStats, churn, seed, kGauge, kNumber, "Seed of the churn schedule"),
    ROW(ChurnStats, churn, running, kGauge, kNumber, "Whether the churn runs"),
    ROW(ChurnStats, churn, operations, kCounter, kNumber,
        "Churn operations, by kind, also those that the host declined"),

    ROW(AuditStats, audit, checks, kCounter, kNumber,
        "Leaves compared with the kernel's own answer"),
    ROW(AuditStats, audit, cache_checks, kCounter, kNumber,
        "Pfn caches compared with the kernel's own answer"),
    ROW(AuditStats, audit, sweeps, kCounter, kNumber, "Audits of every page"),
    ROW(AuditStats, audit, sweep_us, kGauge, kMicros, "How long the last audit of every page took"),
    ROW(AuditStats, audit, in_flight, kCounter, kNumber,
        "Comparisons put off because something changed meanwhile"),
    ROW(AuditStats, audit, differences, kCounter, kNumber,
        "Translations that were wrong; each is one of the four below"),
    ROW(AuditStats, audit, explained_uffd, kCounter, kNumber,
        "Differences that a userfaultfd event explains; repaired"),
    ROW(AuditStats, audit, explained_kernel, kCounter, kNumber,
        "Differences that a kernel record explains; repaired"),
    ROW(AuditStats, audit, unobserved, kCounter, kNumber,
        "Differences that no enabled source could have reported; repaired"),
    ROW(AuditStats, audit, unexplained, kCounter, kNumber,
        "Differences that a source should have reported; each is one of the three below"),
    ROW(AuditStats, audit, missed_by_hooks, kCounter, kNumber,
        "Unexplained differences that the hooks should have reported"),
    ROW(AuditStats, audit, missed_by_uffd, kCounter, kNumber,
        "Unexplained differences that userfaultfd should have reported"),
    ROW(AuditStats, audit, missed_by_kernel, kCounter, kNumber,
        "Unexplained differences that the kernel's notifier should have reported"),

    ROW(WorkingSetStats, working_set, enabled, kGauge, kNumber,
        "Whether the working set is sampled"),
    ROW(WorkingSetStats, working_set, period_us, kGauge, kMicros, "Time between two scans; 0: off"),
    ROW(WorkingSetStats, working_set, scans, kCounter, kNumber,
        "Scans of guest memory for touched pages"),
    ROW(WorkingSetStats, working_set, scan_us, kGauge, kMicros, "How long the last scan took"),
    ROW(WorkingSetStats, working_set, pages, kGauge, kNumber, "Pages that are sampled"),
    ROW(WorkingSetStats, working_set, touched, kGauge, kNumber,
        "Pages that the last scan found touched"),

    ROW(DevicesStats, devices, count, kGauge, kNumber, "Virtio devices"),
    ROW(DevicesStats, devices, queues, kGauge, kNumber, "Queues of the devices that have a ring"),
    ROW(DevicesStats, devices, requests, kCounter, kNumber,
        "Requests that the devices have served"),
    ROW(DevicesStats, devices, errors, kCounter, kNumber,
        "Requests that were answered with an error"),
    ROW(DevicesStats, devices, checked, kCounter, kNumber,
        "Requests whose result the guest has verified"),
    ROW(DevicesStats, devices, to_guest_bytes, kCounter, kBytes,
        "Bytes that the devices have written to guest memory"),
    ROW(DevicesStats, devices, from_guest_bytes, kCounter, kBytes,
        "Bytes that the devices have read from guest memory"),
    ROW(DevicesStats, devices, bounced, kCounter, kNumber,
        "Transfers between a file and guest memory through a buffer"),
    ROW(DevicesStats, devices, direct, kCounter, kNumber,
        "Transfers between a file and guest memory by one system call"),
    ROW(DevicesStats, devices, direct_again, kCounter, kNumber,
        "Direct transfers that were made again, through a buffer"),
    ROW(DevicesStats, devices, file_errors, kCounter, kNumber,
        "Requests for which the file behind the device has failed"),
    ROW(DevicesStats, devices, kicks, kCounter, kNumber,
        "Notifications of the devices by the driver"),
    ROW(DevicesStats, devices, interrupts, kCounter, kNumber,
        "Interrupts that the devices have raised"),
    ROW(DevicesStats, devices, refreshes, kCounter, kNumber,
        "Refreshes of the pfn caches of the rings"),
    ROW(DevicesStats, devices, refreshes_in_request, kCounter, kNumber,
        "Refreshes of ring caches in the middle of a request"),
    ROW(DevicesStats, devices, away, kCounter, kNumber,
        "Steps put off because the memory of a ring was away"),
    ROW(DevicesStats, devices, shortages, kCounter, kNumber,
        "Steps put off because the process had no memory"),
    ROW(DevicesStats, devices, needed_resets, kCounter, kNumber,
        "How often a driver broke the rules and had to reset its device"),

    ROW(BalloonStats, balloon, target_bytes, kGauge, kBytes,
        "Memory that the guest is asked to give back"),
    ROW(BalloonStats, balloon, actual_bytes, kGauge, kBytes,
        "Memory that the guest has given back"),
    ROW(BalloonStats, balloon, inflated, kCounter, kNumber,
        "Pages that the guest has put into the balloon"),
    ROW(BalloonStats, balloon, deflated, kCounter, kNumber,
        "Pages that the guest has taken out of the balloon"),
    ROW(BalloonStats, balloon, reported, kCounter, kNumber,
        "Pages that the guest has reported free"),
    ROW(BalloonStats, balloon, kept, kCounter, kNumber,
        "Pages given back that the host could not discard"),
    ROW(BalloonStats, balloon, idle_us, kGauge, kMicros,
        "Time since the balloon or its target has changed; 0: it has what is asked for"),

    ROW(GuestMemoryStats, guest_memory, reports, kCounter, kNumber,
        "Reports of the guest about its memory; 0: it makes none"),
    ROW(GuestMemoryStats, guest_memory, age_us, kGauge, kMicros,
        "Time since the guest has reported the values that follow"),
    ROW(GuestMemoryStats, guest_memory, swap_in_bytes, kCounter, kBytes,
        "What the guest has swapped in; this and what follows: 0 if it does not report it"),
    ROW(GuestMemoryStats, guest_memory, swap_out_bytes, kCounter, kBytes,
        "What the guest has swapped out"),
    ROW(GuestMemoryStats, guest_memory, major_faults, kCounter, kNumber,
        "Major page faults in the guest"),
    ROW(GuestMemoryStats, guest_memory, minor_faults, kCounter, kNumber,
        "Minor page faults in the guest"),
    ROW(GuestMemoryStats, guest_memory, free_bytes, kGauge, kBytes,
        "Memory that the guest does not use"),
    ROW(GuestMemoryStats, guest_memory, total_bytes, kGauge, kBytes, "Memory that the guest has"),
    ROW(GuestMemoryStats, guest_memory, available_bytes, kGauge, kBytes,
        "Memory that the guest could use without swapping"),
    ROW(GuestMemoryStats, guest_memory, cache_bytes, kGauge, kBytes,
        "Memory of the guest's caches that it can take back without I/O"),
    ROW(GuestMemoryStats, guest_memory, hugetlb_allocations, kCounter, kNumber,
        "Huge pages that the guest has allocated"),
    ROW(GuestMemoryStats, guest_memory, hugetlb_failures, kCounter, kNumber,
        "Huge pages that the guest could not allocate"),

    ROW(HotplugStats, hotplug, region_bytes, kGauge, kBytes, "The most memory that can be plugged"),
    ROW(HotplugStats, hotplug, requested_bytes, kGauge, kBytes,
        "Memory that the guest is asked to have plugged"),
    ROW(HotplugStats, hotplug, plugged_bytes, kGauge, kBytes, "Memory that is plugged"),
    ROW(HotplugStats, hotplug, plugged, kCounter, kNumber,
        "Blocks of 2 MiB that the guest has plugged"),
    ROW(HotplugStats, hotplug, unplugged, kCounter, kNumber, "Blocks that the guest has unplugged"),
    ROW(HotplugStats, hotplug, waits, kCounter, kNumber,
        "Times an unplug has waited for a device that was writing to a block"),
    ROW(HotplugStats, hotplug, busy, kCounter, kNumber,
        "Unplugs that were put off because a device was writing to a block for too long"),
    ROW(HotplugStats, hotplug, refused, kCounter, kNumber,
        "Requests of the guest for more than was asked for, or against the rules"),
    ROW(HotplugStats, hotplug, kept, kCounter, kNumber,
        "Unplugged blocks that the host could not discard"),
    ROW(HotplugStats, hotplug, idle_us, kGauge, kMicros,
        "Time since plugged memory or its target has changed; 0: it is what is asked for"),

    ROW(EventPagesStats, event_pages, open, kGauge, kNumber,
        "Event pages that the guest has given and not closed"),
    ROW(EventPagesStats, event_pages, sent_fast, kCounter, kNumber,
        "Events that their sender has delivered, by page"),
    ROW(EventPagesStats, event_pages, handed_over, kCounter, kNumber,
        "Events that their sender could not deliver without blocking, by page"),
    ROW(EventPagesStats, event_pages, sent_slow, kCounter, kNumber,
        "Events that were handed over and delivered, by page"),
    ROW(EventPagesStats, event_pages, refreshes, kCounter, kNumber,
        "Refreshes of the pfn caches of the event pages, by page"),
    ROW(EventPagesStats, event_pages, taken, kCounter, kNumber, "Events that the guest has taken"),
    ROW(EventPagesStats, event_pages, time_updates, kCounter, kNumber,
        "Updates of the times of event pages"),

    ROW(DirtyLogStats, dirty_log, enabled, kGauge, kNumber,
        "Whether writes to guest memory are logged"),
    ROW(DirtyLogStats, dirty_log, kvm, kFact, kNumber, "How KVM's log is cleared"),
    ROW(DirtyLogStats, dirty_log, period_us, kGauge, kMicros,
        "Time between two collections; 0: off"),
    ROW(DirtyLogStats, dirty_log, collections, kCounter, kNumber, "Collections of the dirty log"),
    ROW(DirtyLogStats, dirty_log, failures, kCounter, kNumber,
        "Collections that failed; their pages were given back"),
    ROW(DirtyLogStats, dirty_log, collect_us, kGauge, kMicros, "How long the last collection took"),
    ROW(DirtyLogStats, dirty_log, pages, kCounter, kNumber,
        "Pages reported dirty, once for each collection"),
    ROW(DirtyLogStats, dirty_log, from_kvm, kCounter, kNumber, "Pages in KVM's log"),
    ROW(DirtyLogStats, dirty_log, from_memslots, kCounter, kNumber,
        "Pages in the logs of our memslots: written through stage-2 or a pfn cache"),
    ROW(DirtyLogStats, dirty_log, from_ram, kCounter, kNumber,
        "Pages in the log of RAM: written without a translation, or moved there with a memslot"),
    ROW(DirtyLogStats, dirty_log, waiting, kGauge, kNumber, "Dirty pages that no client has taken"),
    ROW(DirtyLogStats, dirty_log, taken, kCounter, kNumber, "Dirty pages in answers to clients"),
    ROW(DirtyLogStats, dirty_log, given_back, kCounter, kNumber,
        "Dirty pages in answers that did not reach their client"),
    ROW(DirtyLogStats, dirty_log, checked, kCounter, kNumber,
        "Recorded writes that were looked for in the collections"),
    ROW(DirtyLogStats, dirty_log, missed, kCounter, kNumber,
        "Recorded writes that no collection has reported"),
    ROW(DirtyLogStats, dirty_log, needless, kCounter, kNumber,
        "Pages reported dirty that the guest had not written"),
};
#undef ROW

}  // namespace

StatByName OperationsByKind(const ChurnCounts& operations) {
  StatByName by{"kind", {}};
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto found = operations.find(info.kind);
    by.values.emplace_back(info.name, found == operations.end() ? 0 : found->second);
  }
  return by;
}

std::span<const StatRow> StatTable() { return kTable; }

const StatRow* FindStat(std::string_view group, std::string_view field) {
  const auto* found = std::find_if(kTable.begin(), kTable.end(), [&](const StatRow& row) {
    return row.group == group && row.field == field;
  });
  return found == kTable.end() ? nullptr : found;
}

}  // namespace underfoot
