// What a running machine says about itself: one struct a group of GET /v1/stats, field by field
// with the same names. Numbers are totals since start unless the comment says "now".
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_H_
#define UNDERFOOT_VMM_STATS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "mmu/stats.h"
#include "vmm/churn_kind.h"
#include "vmm/histogram.h"

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
  uint64_t removes = 0;  // events
  uint64_t unmaps = 0;
  uint64_t remaps = 0;
  uint64_t forks = 0;
  uint64_t eagain = 0;     // resolutions put behind a pending event
  uint64_t reordered = 0;  // faults read before the removal that preceded them
  uint64_t lost_copies_repaired = 0;
  LatencySnapshot fault_us;  // microseconds from the read of a fault to its resolution
};

struct ChurnStats {
  uint64_t seed = 0;
  bool running = false;
  ChurnCounts operations;
};

struct AuditStats {
  uint64_t checks = 0;       // translations compared with the kernel's own answer
  uint64_t differences = 0;  // that were wrong
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
  ChurnStats churn;
  AuditStats audit;
};

// Operations of all kinds together.
uint64_t TotalOperations(const ChurnCounts& operations);

// Faults of all kinds together.
uint64_t TotalFaults(const UffdStats& uffd);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_H_
