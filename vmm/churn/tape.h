// What the churn engine plays from and records to: an optional script to repeat, an optional file
// for what happens. Compares what it repeats with what the script says came of it.
//
// Thread safety: any thread, after the setters.

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

namespace underfoot {

struct ReplayStats {
  uint64_t recorded = 0;  // in the script
  uint64_t repeated = 0;  // of them; the rest was not due before the end
  uint64_t differences = 0;
  std::string first;  // "line 17, at 5ms: discard of ...: done; this time discard of ...: declined"
};

class ChurnTape {
 public:
  // Before the engine runs. An empty path: none. A script of a machine with other memory is
  // refused.
  [[nodiscard]] absl::Status Open(const std::string& record_path, const std::string& replay_path,
                                  const ScriptMachine& machine) ABSL_LOCKS_EXCLUDED(mutex_);

  bool replays() const { return replays_; }
  // The operations of a lane, in their order.
  const std::vector<ScriptedOperation>& OfLane(ChurnLane lane) const {
    return lanes_[static_cast<size_t>(lane)];
  }

  // An operation was done; `number`: its place in OfLane when it was a repeated one.
  void Done(const ScriptedOperation& operation, std::optional<size_t> number)
      ABSL_LOCKS_EXCLUDED(mutex_);

  ReplayStats Replay() const ABSL_LOCKS_EXCLUDED(mutex_);
  [[nodiscard]] absl::Status Finish() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool replays_ = false;
  std::array<std::vector<ScriptedOperation>, kChurnLanes> lanes_;
  // Guards: the file and the comparison. Order: innermost; held across a write.
  mutable absl::Mutex mutex_;
  std::optional<ScriptWriter> writer_ ABSL_GUARDED_BY(mutex_);
  ReplayStats replay_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_TAPE_H_
