#include "vmm/churn/engine.h"

#include <array>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"

namespace underfoot {
namespace {

// If the host cannot keep up, the engine catches up with overdue operations while it is late by no
// more than this. Beyond that the rest of the schedule is shifted by the delay.
constexpr absl::Duration kMaxBacklog = absl::Milliseconds(200);

}  // namespace

ChurnEngine::ChurnEngine(ChurnOperations& operations, ChurnTape& tape, ChurnRates rates,
                         uint64_t seed)
    : operations_(operations), tape_(tape) {
  order_.rates = std::move(rates);
  order_.seed = seed;
}

ChurnEngine::~ChurnEngine() { Stop(); }

absl::Status ChurnEngine::StartLanes() {
  absl::MutexLock lock(&mutex_);
  if (order_.stop) return absl::OkStatus();
  for (size_t i = 0; i < kChurnLanes; ++i) {
    if (lanes_[i].joinable()) continue;
    if (absl::Status started = StartThread(lanes_[i], "a lane of churn",
                                           [this, i] { Main(static_cast<ChurnLane>(i)); });
        !started.ok()) {
      return started;
    }
  }
  return absl::OkStatus();
}

absl::Status ChurnEngine::Run(ChurnRates rates, uint64_t seed) {
  if (absl::Status started = StartLanes(); !started.ok()) return started;
  Change(std::move(rates), seed, true);
  return absl::OkStatus();
}

void ChurnEngine::Set(ChurnRates rates, uint64_t seed) { Change(std::move(rates), seed, false); }

void ChurnEngine::Change(ChurnRates rates, uint64_t seed, bool running) {
  absl::MutexLock lock(&mutex_);
  order_.rates = std::move(rates);
  order_.seed = seed;
  order_.running = running && !order_.stop;
  ++order_.number;
}

void ChurnEngine::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(order_.stop, true)) return;
    order_.running = false;
    ++order_.number;
  }
  operations_.Hurry(true);
  for (std::thread& lane : lanes_) {
    if (lane.joinable()) lane.join();
  }
}

ChurnEngine::Order ChurnEngine::NextOrder(uint64_t done) {
  absl::MutexLock lock(&mutex_);
  const auto changed = [this, done]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return order_.number != done; };
  mutex_.Await(absl::Condition(&changed));
  return order_;
}

bool ChurnEngine::SleepUntil(absl::Duration time, const Order& order) {
  absl::MutexLock lock(&mutex_);
  const auto changed = [this, &order]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return order_.number != order.number;
  };
  return !AwaitFor(mutex_, absl::Condition(&changed), time - MonotonicNow());
}

void ChurnEngine::Main(ChurnLane lane) {
  constexpr std::array<const char*, kChurnLanes> kNames = {"churn-pages", "churn-memslots",
                                                           "churn-slow"};
  NameThisThread(kNames[static_cast<size_t>(lane)]);
  RaiseThisThread();
  for (Order order = NextOrder(0); !order.stop; order = NextOrder(order.number)) {
    if (!order.running) continue;
    if (tape_.replays()) {
      Replay(order, lane);
    } else {
      Carry(order, lane);
    }
  }
}

void ChurnEngine::Carry(const Order& order, ChurnLane lane) {
  ChurnSchedule schedule(order.rates, order.seed, lane);
  if (schedule.empty()) return;
  const absl::Duration began = MonotonicNow();
  absl::Duration start = began;
  for (;;) {
    const ChurnSchedule::Step step = schedule.Next();
    if (!SleepUntil(start + step.due, order)) return;
    const absl::Duration late = MonotonicNow() - (start + step.due);
    if (late > kMaxBacklog) start += late;
    if (!Do(lane, step, began, std::nullopt)) return;
  }
}

void ChurnEngine::Replay(const Order& order, ChurnLane lane) {
  const std::vector<ScriptedOperation>& script = tape_.OfLane(lane);
  const absl::Duration start = MonotonicNow();
  for (size_t i = 0; i < script.size(); ++i) {
    if (!SleepUntil(start + script[i].step.due, order)) return;
    if (!Do(lane, script[i].step, start, i)) return;
  }
}

bool ChurnEngine::Do(ChurnLane lane, const ChurnSchedule::Step& step, absl::Duration start,
                     std::optional<size_t> number) {
  const absl::Duration at = MonotonicNow() - start;
  const absl::StatusOr<ChurnResult> result = operations_.Run(step.kind, step.random);
  if (!result.ok()) {
    absl::MutexLock lock(&mutex_);
    failure_.Update(result.status());
    order_.running = false;
    ++order_.number;
    return false;
  }
  done_[static_cast<size_t>(step.kind)].Add();
  tape_.Done({lane, {.kind = step.kind, .due = at, .random = step.random}, *result}, number);
  return true;
}

ChurnStats ChurnEngine::Stats() const {
  ChurnStats stats;
  for (const ChurnKindInfo& info : kChurnKinds) {
    const uint64_t n = done_[static_cast<size_t>(info.kind)].Get();
    if (n != 0) stats.operations[info.kind] = n;
  }
  absl::MutexLock lock(&mutex_);
  stats.seed = order_.seed;
  stats.running = order_.running;
  return stats;
}

ChurnRates ChurnEngine::rates() const {
  absl::MutexLock lock(&mutex_);
  return order_.rates;
}

absl::Status ChurnEngine::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

}  // namespace underfoot
