// The churn engine: carries out the schedule while the guest runs, a thread for each lane.
//
// Thread safety: any thread. Stop before the memory goes.

#ifndef UNDERFOOT_VMM_CHURN_ENGINE_H_
#define UNDERFOOT_VMM_CHURN_ENGINE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/stats.h"
#include "vmm/churn/operations.h"
#include "vmm/churn/schedule.h"
#include "vmm/churn/tape.h"
#include "vmm/churn_kind.h"
#include "vmm/stats.h"

namespace underfoot {

class ChurnEngine {
 public:
  // `tape` outlives the engine and is open before Run.
  ChurnEngine(ChurnOperations& operations, ChurnTape& tape, ChurnRates rates, uint64_t seed);
  ~ChurnEngine();
  ChurnEngine(const ChurnEngine&) = delete;
  ChurnEngine& operator=(const ChurnEngine&) = delete;

  // Starts the schedule from its beginning; Set makes it known without running it. They return
  // before the present operation has ended.
  void Run(ChurnRates rates, uint64_t seed) ABSL_LOCKS_EXCLUDED(mutex_);
  void Set(ChurnRates rates, uint64_t seed) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the engine's threads; the present operations end first.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  ChurnStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  ChurnRates rates() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why the engine gave up, if it did: an operation that failed.
  absl::Status failure() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Order {
    ChurnRates rates;
    uint64_t seed = 0;
    bool running = false;
    bool stop = false;
    uint64_t number = 0;  // moves with every change
  };

  void Change(ChurnRates rates, uint64_t seed, bool running) ABSL_LOCKS_EXCLUDED(mutex_);
  void Main(ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  Order NextOrder(uint64_t done) ABSL_LOCKS_EXCLUDED(mutex_);
  void Carry(const Order& order, ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  void Replay(const Order& order, ChurnLane lane) ABSL_LOCKS_EXCLUDED(mutex_);
  // False when it failed, which ends the churn.
  bool Do(ChurnLane lane, const ChurnSchedule::Step& step, absl::Time start,
          std::optional<size_t> number) ABSL_LOCKS_EXCLUDED(mutex_);
  // False when the order has changed.
  bool SleepUntil(absl::Time time, const Order& order) ABSL_LOCKS_EXCLUDED(mutex_);

  ChurnOperations& operations_;
  ChurnTape& tape_;
  std::array<Counter, kChurnKinds.size()> done_;
  // Guards: what the engine shall do. Order: innermost; never held over an operation.
  mutable absl::Mutex mutex_;
  Order order_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::array<std::thread, kChurnLanes> lanes_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_ENGINE_H_
