// What the control socket asks of a machine. The machine implements it; the server knows only this.
//
// Thread safety: every function may be called from any thread, several at once, from the first
// request that the server takes until ControlServer's destructor has returned.
//
// No function may block a vCPU, except that Pause waits until all of them stand still. None may
// wait for an invalidation, a page-in or an RCU grace period: they read counters, published sets
// and table entries as they are, so an answer may be a moment old, and is never torn within a
// field.

#ifndef UNDERFOOT_VMM_CONTROL_TARGET_H_
#define UNDERFOOT_VMM_CONTROL_TARGET_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mmu/types.h"
#include "vmm/ageing/working_set_info.h"
#include "vmm/churn_kind.h"
#include "vmm/churn_limits.h"
#include "vmm/coverage/matrix.h"
#include "vmm/memory/event_log.h"
#include "vmm/stats.h"

namespace underfoot {

enum class CacheKey : uint8_t { kGpa, kHva };
enum class CacheState : uint8_t { kInactive, kInvalid, kPending, kValid };

struct CacheInfo {
  std::string name;
  CacheKey key = CacheKey::kGpa;
  uint64_t address = 0;  // a Gpa or an Hva, as `key` says
  uint64_t bytes = 0;
  CacheState state = CacheState::kInactive;
  std::optional<Hva> hva;  // of the translation, when there is one
  std::optional<Pfn> pfn;
  uint64_t refreshes = 0;
  uint64_t invalidations = 0;
};

struct MemslotInfo {
  uint32_t id = 0;
  GfnRange range;
  Hva hva;                  // of range.begin
  uint32_t flags = 0;       // KVM_MEM_*
  uint64_t generation = 0;  // of the set that this slot came with
};

enum class Stage2EntryKind : uint8_t { kHole, kTable, kLeaf, kClaim };

struct Stage2Step {
  int level = 0;  // 0 is 4 KiB
  Stage2EntryKind kind = Stage2EntryKind::kHole;
  uint64_t raw = 0;  // the entry as it was read
};

struct Stage2Leaf {
  Pfn pfn;  // of `gfn` itself, also under a 2 MiB leaf
  int level = 0;
  Access access = Access::kRead;
  bool young = false;
  bool dirty = false;
  Hva hva;  // of `gfn` itself
};

struct Stage2Walk {
  Gfn gfn;
  std::vector<Stage2Step> steps;   // from the root down
  std::optional<Stage2Leaf> leaf;  // nullopt: nothing is mapped, and `reason` says why
  std::string reason;
};

struct VmInfo {
  std::string name;
  int64_t pid = 0;
  VmState state = VmState::kStarting;
  uint32_t vcpus = 0;
  uint64_t memory_bytes = 0;
  ChurnLimits churn_limits;  // with the backing
  std::string guest;         // the workload or the ELF file
  std::string kvm_vendor;
  uint64_t uptime_us = 0;
  bool real_pfns = false;  // false: hva page numbers stand in for pfns (no CAP_SYS_ADMIN)
};

struct ChurnState {
  bool running = false;
  uint64_t seed = 0;
  ChurnRates rates;  // operations a second
  ChurnCounts operations;
};

// What is absent stays as it is. A new seed starts the schedule anew from that seed.
struct ChurnRequest {
  std::optional<bool> running;
  std::optional<uint64_t> seed;
  std::optional<ChurnRates> rates;
};

class ControlTarget {
 public:
  virtual ~ControlTarget() = default;

  virtual absl::StatusOr<Stats> GetStats() = 0;
  virtual absl::StatusOr<std::vector<CacheInfo>> GetCaches() = 0;
  virtual absl::StatusOr<std::vector<MemslotInfo>> GetMemslots() = 0;
  // NotFound when no memslot holds `gfn`; a hole in the table is an answer, not an error.
  virtual absl::StatusOr<Stage2Walk> GetStage2(Gfn gfn) = 0;
  virtual absl::StatusOr<VmInfo> GetVm() = 0;

  // Each is idempotent. FailedPrecondition when the machine is past that (stopped).
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // Asks the machine to end, and returns at once; the answer still goes out.
  virtual absl::Status Quit() = 0;

  // Pages touched within `window`; absent: by the last scan. FailedPrecondition when nothing is
  // sampled.
  virtual absl::StatusOr<WorkingSetInfo> GetWorkingSet(std::optional<absl::Duration> window) = 0;

  virtual absl::StatusOr<CoverageMatrix> GetCoverage() = 0;
  // The number that the next event gets; at most `most` of those from `first` on.
  virtual uint64_t EventsEnd() = 0;
  virtual std::vector<NumberedEvent> GetEvents(uint64_t first, size_t most) = 0;

  virtual absl::StatusOr<ChurnState> GetChurn() = 0;
  // All or nothing. InvalidArgument names the kind that this machine cannot do (e.g. punch on
  // private memory).
  virtual absl::StatusOr<ChurnState> PutChurn(const ChurnRequest& request) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_TARGET_H_
