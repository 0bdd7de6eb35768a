// A machine as the control socket sees it.
//
// Thread safety: as ControlTarget asks.

#ifndef UNDERFOOT_VMM_MACHINE_MACHINE_CONTROL_H_
#define UNDERFOOT_VMM_MACHINE_MACHINE_CONTROL_H_

#include <atomic>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/ordering.h"
#include "vmm/control/target.h"
#include "vmm/machine/machine.h"

namespace underfoot {

class MachineControl final : public ControlTarget {
 public:
  // `machine` outlives this.
  explicit MachineControl(Machine& machine) : machine_(machine) {}

  absl::StatusOr<Stats> GetStats() override;
  absl::StatusOr<std::vector<CacheInfo>> GetCaches() override;
  absl::StatusOr<std::vector<MemslotInfo>> GetMemslots() override;
  absl::StatusOr<Stage2Walk> GetStage2(Gfn gfn) override;
  absl::StatusOr<VmInfo> GetVm() override;
  absl::Status Pause() override { return machine_.Pause(); }
  absl::Status Resume() override { return machine_.Resume(); }
  absl::Status Quit() override;
  absl::StatusOr<WorkingSetInfo> GetWorkingSet(std::optional<absl::Duration> window) override;
  absl::StatusOr<DirtyInfo> GetDirty() override;
  absl::StatusOr<DirtyPages> TakeDirty() override;
  void GiveBackDirty(const DirtyPages& pages) override;
  absl::StatusOr<CoverageMatrix> GetCoverage() override { return machine_.coverage(); }
  absl::StatusOr<AllDevices> GetDevices() override { return machine_.devices(); }
  absl::StatusOr<BalloonInfo> GetBalloon() override;
  absl::StatusOr<BalloonInfo> SetBalloon(uint64_t bytes) override;
  absl::StatusOr<HotplugStats> GetHotplug() override;
  absl::StatusOr<HotplugStats> SetHotplug(uint64_t bytes) override;
  uint64_t EventsEnd() override { return machine_.events().end(); }
  std::vector<EventInfo> GetEvents(uint64_t first, size_t most) override;
  absl::StatusOr<ChurnState> GetChurn() override;
  absl::StatusOr<ChurnState> PutChurn(const ChurnRequest& request) override;

  // Gives the result of the run to clients that poll GetVm. Returns when no client has called GetVm
  // for one second, and after five seconds at most. Returns at once if no client has called GetVm
  // in the second before this call. Calls from before the end of the run count too, because an end
  // may be shorter than the time between two polls of a client.
  void ReportToWaitingClients(RunResult result) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether a client has changed the churn: then the options do not say what was asked for.
  bool churn_changed() const { return churn_changed_.load(kRelaxed); }

 private:
  Machine& machine_;
  std::atomic<bool> churn_changed_{false};  // relaxed: a fact for the summary, it orders nothing
  // Guards: the result. Order: innermost.
  absl::Mutex mutex_;
  std::optional<RunResult> result_ ABSL_GUARDED_BY(mutex_);
  uint64_t asked_ ABSL_GUARDED_BY(mutex_) = 0;  // how often GetVm was called
  absl::Duration last_asked_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();  // MonotonicNow
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_MACHINE_CONTROL_H_
