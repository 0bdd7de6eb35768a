// A machine as the control socket sees it.
//
// Thread safety: as ControlTarget asks.

#ifndef UNDERFOOT_VMM_MACHINE_CONTROL_H_
#define UNDERFOOT_VMM_MACHINE_CONTROL_H_

#include "vmm/control/target.h"
#include "vmm/machine.h"

namespace underfoot {

class MachineControl final : public ControlTarget {
 public:
  // `machine` outlives this.
  explicit MachineControl(Machine& machine) : machine_(machine) {}

  absl::StatusOr<Stats> GetStats() override { return machine_.GetStats(); }
  absl::StatusOr<std::vector<CacheInfo>> GetCaches() override;
  absl::StatusOr<std::vector<MemslotInfo>> GetMemslots() override;
  absl::StatusOr<Stage2Walk> GetStage2(Gfn gfn) override;
  absl::StatusOr<VmInfo> GetVm() override;
  absl::Status Pause() override { return machine_.Pause(); }
  absl::Status Resume() override { return machine_.Resume(); }
  absl::Status Quit() override;
  absl::StatusOr<WorkingSetInfo> GetWorkingSet(std::optional<absl::Duration> window) override;
  absl::StatusOr<CoverageMatrix> GetCoverage() override { return machine_.coverage(); }
  uint64_t EventsEnd() override { return machine_.events().end(); }
  std::vector<NumberedEvent> GetEvents(uint64_t first, size_t most) override {
    return machine_.events().Since(first, most);
  }
  absl::StatusOr<ChurnState> GetChurn() override;
  absl::StatusOr<ChurnState> PutChurn(const ChurnRequest& request) override;

 private:
  Machine& machine_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_CONTROL_H_
