// The statistics of a running machine: one struct for each group of GET /v1/stats, with fields of
// the same names. Numbers are totals since the start unless the comment says "now".
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_STATS_H_
#define UNDERFOOT_VMM_STATS_STATS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>

#include "guest/abi.h"
#include "mmu/base/stats.h"
#include "vmm/base/histogram.h"
#include "vmm/config/churn_kind.h"
#include "vmm/evidence/event_reads.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {

// kEnding: the guest verifies once more, then every page is audited.
enum class VmState : uint8_t { kStarting, kRunning, kPaused, kEnding, kStopped };
// The guest's own verdict; kNone: the guest gave none before its machine ended.
enum class GuestVerdict : uint8_t { kPending, kGood, kBad, kNone };

// "starting", "running", "paused", "ending", "stopped"; "pending", "good", "bad", "none".
std::string_view VmStateName(VmState state);
std::string_view GuestVerdictName(GuestVerdict verdict);

struct VmStats {
  std::string name;
  uint32_t vcpus = 0;
  uint64_t memory_bytes = 0;
  VmState state = VmState::kStarting;
  uint64_t uptime_us = 0;  // microseconds since the machine was made
  std::string kvm_vendor;  // the module behind /dev/kvm, e.g. "kvm_amd"
};

struct GuestStats {
  std::string workload;
  uint64_t pages_checked = 0;
  uint64_t mismatches = 0;  // pages that had content which they must never have
  GuestVerdict verdict = GuestVerdict::kPending;
};

// The faults that each of the handlers has read.
struct FaultsByHandler {
  uint32_t handlers = 0;
  std::array<uint64_t, kMostEventReaders> faults{};
};

struct UffdStats {
  uint32_t handlers = 1;  // threads that read userfaultfd, now
  FaultsByHandler by_handler;
  uint64_t missing = 0;  // faults
  uint64_t wp = 0;
  uint64_t minor = 0;
  uint64_t around = 0;           // pages brought in together with a faulting page
  uint64_t blocks = 0;           // faults that brought in a whole block, as one leaf
  uint64_t block_fallbacks = 0;  // faults that were to bring in a block and could not
  uint64_t removes = 0;          // events
  uint64_t unmaps = 0;
  uint64_t remaps = 0;
  uint64_t forks = 0;
  uint64_t fork_waits = 0;    // fork events that had to wait for a free descriptor
  uint64_t eagain = 0;        // resolutions delayed until a pending event had been read
  uint64_t merged = 0;        // faults on a page that another thread was bringing in
  uint64_t put_off = 0;       // faults that could not be resolved at once
  uint64_t cpu_samples = 0;   // faults whose thread's CPU was asked for
  uint64_t crossed_cpus = 0;  // those of them whose handler ran on another CPU
  uint64_t reordered = 0;     // faults read before the removal that preceded them
  uint64_t lost_copies_repaired = 0;
  uint64_t freed_lazily = 0;       // pages of MADV_FREE that a fault found absent, and repaired
  uint64_t settled_by_record = 0;  // removals that settled by a record of the kernel
  LatencySnapshot fault_us;        // microseconds from reading a fault to resolving it
};

// What the kernel notifier reported about guest RAM.
struct KernelStats {
  bool enabled = false;
  std::string why_not;       // empty when enabled
  uint64_t records = 0;      // about guest RAM: unmaps and ages
  uint64_t unmaps = 0;       // ranges that lost their translations; each is known or foreign
  uint64_t ages = 0;         // ranges whose accessed bit was queried
  uint64_t known = 0;        // changes that a hook or userfaultfd had reported already
  uint64_t foreign = 0;      // changes that only the kernel reported
  uint64_t invalidated = 0;  // how often a translation was dropped because of a record
  uint64_t lost = 0;         // records that the kernel dropped for lack of room
  uint64_t resyncs = 0;      // how often all of guest RAM was invalidated because of lost records
  std::array<uint64_t, kHostCauses> causes{};  // the foreign changes, by HostCause
  LatencySnapshot lag_us;  // microseconds from the start of a change until it was acted upon
};

struct ChurnStats {
  uint64_t seed = 0;
  bool running = false;
  ChurnCounts operations;
};

struct AuditStats {
  uint64_t checks = 0;        // leaves compared with the kernel's page table
  uint64_t cache_checks = 0;  // pfn caches compared in the same way
  uint64_t sweeps = 0;        // comparisons of every page
  uint64_t sweep_us = 0;      // microseconds of the last one, now
  uint64_t in_flight = 0;     // comparisons put off because a change was in progress
  // Translations that stayed wrong. Each of them is one of the four cases below.
  uint64_t differences = 0;
  uint64_t explained_uffd = 0;    // a removal that userfaultfd reported; repaired
  uint64_t explained_kernel = 0;  // a change that the kernel notifier reported; repaired
  // A change that only the kernel notifier could have reported, and it is off; repaired.
  uint64_t unobserved = 0;
  uint64_t unexplained = 0;  // the source that should have reported it is one of the three below
  uint64_t missed_by_hooks = 0;
  uint64_t missed_by_uffd = 0;
  uint64_t missed_by_kernel = 0;
};

// The sampler of the working set.
struct WorkingSetStats {
  bool enabled = false;
  uint64_t period_us = 0;  // now; 0: off, or scans only on request
  uint64_t scans = 0;
  uint64_t scan_us = 0;  // microseconds of the last one, now
  uint64_t pages = 0;    // the sampled pages, now
  uint64_t touched = 0;  // pages touched according to the last scan, now
};

// The virtio devices together.
struct DevicesStats {
  uint64_t count = 0;   // now
  uint64_t queues = 0;  // to which the driver has given a ring, now
  uint64_t requests = 0;
  uint64_t errors = 0;
  uint64_t checked = 0;  // requests whose result the guest has verified
  uint64_t to_guest_bytes = 0;
  uint64_t from_guest_bytes = 0;
  uint64_t bounced = 0;
  uint64_t direct = 0;
  uint64_t direct_again = 0;
  uint64_t file_errors = 0;
  uint64_t kicks = 0;
  uint64_t interrupts = 0;
  uint64_t refreshes = 0;
  uint64_t refreshes_in_request = 0;
  uint64_t away = 0;
  uint64_t shortages = 0;
  uint64_t needed_resets = 0;
};

// What the guest says about its own memory (virtio 1.2, section 5.5.6.4). What it does not report is 0.
struct GuestMemoryStats {
  uint64_t reports = 0;  // from the guest; 0: it has made none
  uint64_t age_us = 0;   // of the last one
  uint64_t swap_in_bytes = 0;
  uint64_t swap_out_bytes = 0;
  uint64_t major_faults = 0;
  uint64_t minor_faults = 0;
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;  // without swapping
  uint64_t cache_bytes = 0;      // that can be taken back without I/O
  uint64_t hugetlb_allocations = 0;
  uint64_t hugetlb_failures = 0;
};

// The memory balloon; all zeroes if there is none.
struct BalloonStats {
  uint64_t target_bytes = 0;  // that the host asks for, now
  uint64_t actual_bytes = 0;  // that the guest has given, now
  uint64_t inflated = 0;      // pages
  uint64_t deflated = 0;      // pages
  uint64_t reported = 0;      // pages
  uint64_t kept = 0;          // pages of both kinds that the host could not discard
  // Since the target or the balloon has changed; 0: the guest has given what the host asks for.
  uint64_t idle_us = 0;
};

// The memory that is plugged while the guest runs; all zeroes if there is no room for any.
struct HotplugStats {
  uint64_t region_bytes = 0;     // the most
  uint64_t requested_bytes = 0;  // that the host asks the guest to have plugged, now
  uint64_t plugged_bytes = 0;    // now
  uint64_t plugged = 0;          // blocks
  uint64_t unplugged = 0;        // blocks
  uint64_t waits = 0;    // for a device that was writing to a block which shall be unplugged
  uint64_t busy = 0;     // requests to unplug blocks that a device was writing to for too long
  uint64_t refused = 0;  // requests that were too much, or broke the rules
  uint64_t kept = 0;     // blocks that the host could not discard
  // Since a request or its target has changed; 0: the guest has plugged what the host asks for.
  uint64_t idle_us = 0;
};

// A number for each event page: of the VM, then of each vCPU.
struct ByEventPage {
  uint32_t pages = 0;
  std::array<uint64_t, 1 + abi::kMaxVcpus> values{};

  void Set(size_t page, uint64_t value) {
    values[page] = value;
    pages = std::max(pages, static_cast<uint32_t>(page) + 1);
  }
  uint64_t Total() const { return std::accumulate(values.begin(), values.end(), uint64_t{0}); }
};

// The event pages; all zeroes if the guest has given none.
struct EventPagesStats {
  uint64_t open = 0;  // now
  ByEventPage sent_fast;
  ByEventPage handed_over;
  ByEventPage sent_slow;
  ByEventPage refreshes;
  uint64_t taken = 0;  // events that the guest has taken
  uint64_t time_updates = 0;
};

// The dirty log. Pages are counted once for each collection that reports them.
struct DirtyLogStats {
  bool enabled = false;
  std::string kvm;         // how KVM's log is cleared; empty when the log is off
  uint64_t period_us = 0;  // now; 0: off, or collections only on request
  uint64_t collections = 0;
  uint64_t failures = 0;    // collections that failed and were given back
  uint64_t collect_us = 0;  // microseconds of the last collection, now
  uint64_t pages = 0;
  uint64_t from_kvm = 0;
  uint64_t from_memslots = 0;
  uint64_t from_ram = 0;
  uint64_t waiting = 0;     // pages that no client has taken yet, now
  uint64_t taken = 0;       // pages in answers to clients
  uint64_t given_back = 0;  // pages of answers that did not reach their client
  uint64_t checked = 0;     // writes recorded by the guest that were looked for in the collections
  uint64_t missed = 0;      // those that were in none
  uint64_t needless = 0;    // reported pages that the guest had not written
};

struct Stats {
  VmStats vm;
  GuestStats guest;
  PfnCacheStats pfn_caches;
  Stage2Stats stage2;
  NotifierStats notifier;
  MemslotStats memslots;
  RcuStats rcu;
  UffdStats uffd;
  KernelStats kernel;
  ChurnStats churn;
  AuditStats audit;
  WorkingSetStats working_set;
  DevicesStats devices;
  BalloonStats balloon;
  GuestMemoryStats guest_memory;
  HotplugStats hotplug;
  EventPagesStats event_pages;
  DirtyLogStats dirty_log;
};

// Operations of all kinds together.
uint64_t TotalOperations(const ChurnCounts& operations);

// Faults of all kinds together.
uint64_t TotalFaults(const UffdStats& uffd);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_STATS_H_
