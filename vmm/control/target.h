// The interface through which the control socket queries and changes a machine. The machine
// implements it; the server knows nothing else of the machine.
//
// Thread safety: every function may be called from any thread, several at once, from the first
// request that the server takes until ControlServer's destructor has returned.
//
// No function may block a vCPU, except that Pause waits until all vCPUs have stopped. No function
// may wait for an invalidation, a page-in or an RCU grace period. The functions read counters,
// published sets and table entries as they are, so an answer may be slightly outdated, and is never
// torn within a field.

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
#include "mmu/base/types.h"
#include "vmm/config/churn_kind.h"
#include "vmm/config/churn_limits.h"
#include "vmm/evidence/event_log.h"
#include "vmm/stats/coverage_matrix.h"
#include "vmm/stats/device_info.h"
#include "vmm/stats/dirty_info.h"
#include "vmm/stats/run_end.h"
#include "vmm/stats/stats.h"
#include "vmm/stats/working_set_info.h"

namespace underfoot {

enum class CacheKey : uint8_t { kGpa, kHva };
enum class CacheState : uint8_t { kInactive, kInvalid, kPending, kValid };

struct CacheInfo {
  std::string name;
  CacheKey key = CacheKey::kGpa;
  uint64_t address = 0;  // a Gpa or an Hva, as `key` says
  uint64_t bytes = 0;
  CacheState state = CacheState::kInactive;
  std::optional<Hva> hva;  // the host address of the translation, if there is one
  std::optional<Pfn> pfn;
  uint64_t refreshes = 0;
  uint64_t invalidations = 0;
};

struct MemslotInfo {
  uint32_t id = 0;
  GfnRange range;
  Hva hva;                  // of range.begin
  uint32_t flags = 0;       // KVM_MEM_*
  uint64_t generation = 0;  // the generation of the set in which this slot first appeared
};

enum class Stage2EntryKind : uint8_t { kHole, kTable, kLeaf, kClaim };

struct Stage2Step {
  int level = 0;  // 0 is 4 KiB
  Stage2EntryKind kind = Stage2EntryKind::kHole;
  uint64_t raw = 0;  // the entry as it was read
};

struct Stage2Leaf {
  Pfn pfn;  // of `gfn` itself, even under a 2 MiB leaf
  int level = 0;
  Access access = Access::kRead;
  bool young = false;
  bool dirty = false;
  Hva hva;  // of `gfn` itself
};

struct Stage2Walk {
  Gfn gfn;
  std::vector<Stage2Step> steps;   // from the root down
  std::optional<Stage2Leaf> leaf;  // nullopt: nothing is mapped; `reason` says why
  std::string reason;
};

struct VmInfo {
  std::string name;
  int64_t pid = 0;
  VmState state = VmState::kStarting;
  uint32_t vcpus = 0;
  uint64_t memory_bytes = 0;
  ChurnLimits churn_limits;  // include the backing and its huge pages
  std::string guest;         // the workload or the ELF file
  std::string kvm_vendor;
  uint64_t uptime_us = 0;
  bool real_pfns = false;  // false: hva page numbers stand in for pfns (no CAP_SYS_ADMIN)
  std::optional<RunResult> result = {};  // set when the run has ended
};

struct ChurnState {
  bool running = false;
  uint64_t seed = 0;
  ChurnRates rates;  // operations a second
  ChurnCounts operations;
};

// A member that is absent does not change. A new seed starts the schedule from the beginning.
struct ChurnRequest {
  std::optional<bool> running;
  std::optional<uint64_t> seed;
  std::optional<ChurnRates> rates;
};

// An event, and the guest frames at its host addresses. The frames are those at the time of the
// query, which may be later than the event. None: no memslot is there (any more).
struct EventInfo {
  NumberedEvent event;
  std::vector<GfnRange> gfns;
};

struct BalloonInfo {
  BalloonStats balloon;
  GuestMemoryStats guest;
};

class ControlTarget {
 public:
  virtual ~ControlTarget() = default;

  virtual absl::StatusOr<Stats> GetStats() = 0;
  virtual absl::StatusOr<std::vector<CacheInfo>> GetCaches() = 0;
  virtual absl::StatusOr<std::vector<MemslotInfo>> GetMemslots() = 0;
  // NotFound if no memslot holds `gfn`. A hole in the table is an answer, not an error.
  virtual absl::StatusOr<Stage2Walk> GetStage2(Gfn gfn) = 0;
  virtual absl::StatusOr<VmInfo> GetVm() = 0;

  // Both are idempotent. FailedPrecondition if the machine has stopped.
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // Requests the end of the machine and returns at once, so that the answer can still be sent.
  virtual absl::Status Quit() = 0;

  // The pages touched within `window`; absent: since the last scan. FailedPrecondition if the
  // machine does not sample.
  virtual absl::StatusOr<WorkingSetInfo> GetWorkingSet(std::optional<absl::Duration> window) = 0;

  // What the last collection of the dirty log found. FailedPrecondition if writes are not logged.
  virtual absl::StatusOr<DirtyInfo> GetDirty() = 0;
  // The pages that were collected since the last take; each is returned once, unless it is written
  // again.
  virtual absl::StatusOr<DirtyPages> TakeDirty() = 0;
  // The pages of a take did not reach the client; the next take returns them again.
  virtual void GiveBackDirty(const DirtyPages& pages) = 0;

  virtual absl::StatusOr<CoverageMatrix> GetCoverage() = 0;
  virtual absl::StatusOr<AllDevices> GetDevices() = 0;
  // FailedPrecondition if the machine has no balloon. SetBalloon returns at once; the guest gives the
  // memory when it likes. InvalidArgument: more than the guest has. GetBalloon asks the guest for a new
  // report about its memory, and returns the one before.
  virtual absl::StatusOr<BalloonInfo> GetBalloon() = 0;
  virtual absl::StatusOr<BalloonInfo> SetBalloon(uint64_t bytes) = 0;
  // FailedPrecondition if no memory can be plugged. SetHotplug returns at once; the guest plugs and
  // unplugs when it likes. InvalidArgument: more than there is room for, or no whole blocks.
  virtual absl::StatusOr<HotplugStats> GetHotplug() = 0;
  virtual absl::StatusOr<HotplugStats> SetHotplug(uint64_t bytes) = 0;
  // EventsEnd: the number that the next event will get. Events: at most `most` events, from number
  // `first` on.
  virtual uint64_t EventsEnd() = 0;
  virtual std::vector<EventInfo> GetEvents(uint64_t first, size_t most) = 0;

  virtual absl::StatusOr<ChurnState> GetChurn() = 0;
  // Changes all or nothing. InvalidArgument names the kind that this machine cannot do (e.g. punch
  // on private memory).
  virtual absl::StatusOr<ChurnState> PutChurn(const ChurnRequest& request) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_TARGET_H_
