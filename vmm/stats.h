// What a running machine says about itself: one struct a group of GET /v1/stats, field by field
// with the same names. Numbers are totals since start unless the comment says "now".
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_H_
#define UNDERFOOT_VMM_STATS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "mmu/stats.h"
#include "vmm/churn_kind.h"
#include "vmm/histogram.h"
#include "vmm/memory/host_event.h"

namespace underfoot {

enum class VmState : uint8_t { kStarting, kRunning, kPaused, kStopped };
enum class GuestVerdict : uint8_t { kPending, kGood, kBad };

// "starting", "running", "paused", "stopped"; "pending", "good", "bad".
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
  uint64_t mismatches = 0;  // pages that read as something they may never be
  GuestVerdict verdict = GuestVerdict::kPending;
};

struct UffdStats {
  uint64_t missing = 0;  // faults
  uint64_t wp = 0;
  uint64_t minor = 0;
  uint64_t around = 0;   // pages brought in beside one that was faulted on
  uint64_t removes = 0;  // events
  uint64_t unmaps = 0;
  uint64_t remaps = 0;
  uint64_t forks = 0;
  uint64_t eagain = 0;     // resolutions put behind a pending event
  uint64_t reordered = 0;  // faults read before the removal that preceded them
  uint64_t lost_copies_repaired = 0;
  uint64_t freed_lazily = 0;       // pages of MADV_FREE that a fault found gone, and repaired
  uint64_t settled_by_record = 0;  // removals that the kernel's record ended
  LatencySnapshot fault_us;        // microseconds from the read of a fault to its resolution
};

// What the kernel's own notifier told of guest RAM.
struct KernelStats {
  bool enabled = false;
  std::string why_not;       // empty when enabled
  uint64_t records = 0;      // about guest RAM: unmaps and ages
  uint64_t unmaps = 0;       // ranges that lost their translations: known or foreign
  uint64_t ages = 0;         // ranges asked for their accessed bit
  uint64_t known = 0;        // a hook or userfaultfd had told of it
  uint64_t foreign = 0;      // only the kernel told of it
  uint64_t invalidated = 0;  // times that a translation was dropped because of it
  uint64_t lost = 0;         // records that the kernel had no room for
  uint64_t resyncs = 0;      // times that all of guest RAM was invalidated because of that
  std::array<uint64_t, kHostCauses> causes{};  // of the foreign ones, by HostCause
  LatencySnapshot lag_us;  // microseconds from a change's start until it was acted upon
};

struct ChurnStats {
  uint64_t seed = 0;
  bool running = false;
  ChurnCounts operations;
};

struct AuditStats {
  uint64_t checks = 0;        // leaves compared with the kernel's own answer
  uint64_t cache_checks = 0;  // pfn caches likewise
  uint64_t sweeps = 0;        // looks at every page
  uint64_t sweep_us = 0;      // microseconds of the last one, now
  uint64_t in_flight = 0;     // looks put off, since something changed meanwhile
  // Translations that were wrong for good, each of them one of the four below.
  uint64_t differences = 0;
  uint64_t explained_uffd = 0;    // a removal that userfaultfd told of; repaired
  uint64_t explained_kernel = 0;  // a change that the kernel's notifier told of; repaired
  uint64_t unobserved = 0;        // what only that one could have told, and it is off; repaired
  uint64_t unexplained = 0;       // which source should have told: the three below
  uint64_t missed_by_hooks = 0;
  uint64_t missed_by_uffd = 0;
  uint64_t missed_by_kernel = 0;
};

// The sampler of the working set.
struct WorkingSetStats {
  bool enabled = false;
  uint64_t period_us = 0;  // now; 0: off, or scanned by hand
  uint64_t scans = 0;
  uint64_t scan_us = 0;  // microseconds of the last one, now
  uint64_t pages = 0;    // that are sampled, now
  uint64_t touched = 0;  // by the last scan, now
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
};

// Operations of all kinds together.
uint64_t TotalOperations(const ChurnCounts& operations);

// Faults of all kinds together.
uint64_t TotalFaults(const UffdStats& uffd);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_H_
