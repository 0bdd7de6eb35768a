// The input and output of the churn engine: an optional script to repeat, and an optional file to
// record to. Compares the outcome of repeated operations with that in the script.
//
// Thread safety: any thread, after Replay and Record.

#ifndef UNDERFOOT_VMM_CHURN_TAPE_H_
#define UNDERFOOT_VMM_CHURN_TAPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/churn/script.h"
#include "vmm/stats/run_end.h"

namespace underfoot {

class ChurnTape {
 public:
  // Replay and Record must be called before the engine runs, if at all. A script of a machine with
  // other memory is refused.
  [[nodiscard]] absl::Status Replay(const std::string& path, const ScriptMachine& machine)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The file keeps what it contains until BeginRecord.
  [[nodiscard]] absl::Status Record(const std::string& path, const ScriptMachine& machine)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Writes what was done so far, and from now on each operation when it is done. To be called when
  // nothing else of the run can be refused. Without Record it has no effect.
  [[nodiscard]] absl::Status BeginRecord() ABSL_LOCKS_EXCLUDED(mutex_);

  bool replays() const { return replays_; }
  // The recorded operations of a lane, in their order.
  const std::vector<ScriptedOperation>& OfLane(ChurnLane lane) const {
    return lanes_[static_cast<size_t>(lane)];
  }

  // Records that an operation was done. `number`: its index in OfLane if it was repeated from the
  // script.
  void Done(const ScriptedOperation& operation, std::optional<size_t> number)
      ABSL_LOCKS_EXCLUDED(mutex_);

  ReplayStats Replay() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The error because of which the record ends before the churn does; ok if there is none.
  [[nodiscard]] absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool replays_ = false;
  std::array<std::vector<ScriptedOperation>, kChurnLanes> lanes_;
  // Guards: the file and the comparison. Order: innermost. It is held during a write.
  mutable absl::Mutex mutex_;
  std::optional<ScriptWriter> writer_ ABSL_GUARDED_BY(mutex_);
  ReplayStats replay_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_TAPE_H_
