// The churn engine: executes the schedule while the guest runs, with one thread for each lane.
//
// Thread safety: any thread. Stop must be called before the memory is destroyed.

#ifndef UNDERFOOT_VMM_CHURN_ENGINE_H_
#define UNDERFOOT_VMM_CHURN_ENGINE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/stats.h"
#include "vmm/churn/operations.h"
#include "vmm/churn/schedule.h"
#include "vmm/churn/tape.h"
#include "vmm/config/churn_kind.h"
#include "vmm/stats/stats.h"

namespace underfoot {

class ChurnEngine {
 public:
  // `tape` must outlive the engine and be open before Run.
  ChurnEngine(ChurnOperations& operations, ChurnTape& tape, ChurnRates rates, uint64_t seed);
  ~ChurnEngine();
  ChurnEngine(const ChurnEngine&) = delete;
  ChurnEngine& operator=(const ChurnEngine&) = delete;

  // Run starts the schedule from its beginning; the first Run starts the engine's threads, and its
  // error says that the host has none left. Set stores the rates and the seed without running them.
  // Both return without waiting for the operation in progress.
  [[nodiscard]] absl::Status Run(ChurnRates rates, uint64_t seed) ABSL_LOCKS_EXCLUDED(mutex_);
  void Set(ChurnRates rates, uint64_t seed) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the engine's threads. Operations in progress are completed first.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  ChurnStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  ChurnRates rates() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The error of the operation because of which the engine stopped; ok if there was none.
  absl::Status failure() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Order {
    ChurnRates rates;
    uint64_t seed = 0;
    bool running = false;
    bool stop = false;
    uint64_t number = 0;  // incremented by each change
  };

  absl::Status StartLanes() ABSL_LOCKS_EXCLUDED(mutex_);
  void Change(ChurnRates rates, uint64_t seed, bool running) ABSL_LOCKS_EXCLUDED(mutex_);
  void Main(ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  Order NextOrder(uint64_t done) ABSL_LOCKS_EXCLUDED(mutex_);
  void Carry(const Order& order, ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  void Replay(const Order& order, ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  // `start`: the start of the schedule, by MonotonicNow. Returns false if the operation failed,
  // which ends the churn.
  bool Do(ChurnLane lane, const ChurnSchedule::Step& step, absl::Duration start,
          std::optional<size_t> number) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns false if the order has changed.
  bool SleepUntil(absl::Duration time, const Order& order) ABSL_LOCKS_EXCLUDED(mutex_);

  ChurnOperations& operations_;
  ChurnTape& tape_;
  std::array<Counter, kChurnKinds.size()> done_;
  // Guards: the order, which says what the engine must do. Order: innermost. It is held across the
  // start of the threads, and never during an operation.
  mutable absl::Mutex mutex_;
  Order order_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  // Written with mutex_ held, and read by Stop after the order to stop, which allows no further one.
  std::array<std::thread, kChurnLanes> lanes_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_ENGINE_H_
