#include "vmm/churn/engine.h"

#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/thread_priority.h"

namespace underfoot {
namespace {

// When the host cannot keep up, what was due is caught up with for so long, then given up.
constexpr absl::Duration kMaxBacklog = absl::Milliseconds(200);

}  // namespace

ChurnEngine::ChurnEngine(ChurnOperations& operations, ChurnRates rates, uint64_t seed)
    : operations_(operations) {
  order_.rates = std::move(rates);
  order_.seed = seed;
  for (size_t i = 0; i < kChurnLanes; ++i) {
    lanes_[i] = std::thread([this, i] { Main(static_cast<ChurnLane>(i)); });
  }
}

ChurnEngine::~ChurnEngine() { Stop(); }

void ChurnEngine::Run(ChurnRates rates, uint64_t seed) { Change(std::move(rates), seed, true); }

void ChurnEngine::Set(ChurnRates rates, uint64_t seed) { Change(std::move(rates), seed, false); }

void ChurnEngine::Change(ChurnRates rates, uint64_t seed, bool running) {
  absl::MutexLock lock(&mutex_);
  order_.rates = std::move(rates);
  order_.seed = seed;
  order_.running = running;
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
  for (std::thread& lane : lanes_) lane.join();
}

ChurnEngine::Order ChurnEngine::NextOrder(uint64_t done) {
  absl::MutexLock lock(&mutex_);
  const auto changed = [this, done]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return order_.number != done; };
  mutex_.Await(absl::Condition(&changed));
  return order_;
}

bool ChurnEngine::SleepUntil(absl::Time time, const Order& order) {
  absl::MutexLock lock(&mutex_);
  const auto changed = [this, &order]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return order_.number != order.number;
  };
  return !mutex_.AwaitWithDeadline(absl::Condition(&changed), time);
}

void ChurnEngine::Main(ChurnLane lane) {
  constexpr std::array<const char*, kChurnLanes> kNames = {"churn-pages", "churn-memslots",
                                                           "churn-slow"};
  NameThisThread(kNames[static_cast<size_t>(lane)]);
  RaiseThisThread();
  for (Order order = NextOrder(0); !order.stop; order = NextOrder(order.number)) {
    if (order.running) Carry(order, lane);
  }
}

void ChurnEngine::Carry(const Order& order, ChurnLane lane) {
  ChurnSchedule schedule(order.rates, order.seed, lane);
  if (schedule.empty()) return;
  absl::Time start = absl::Now();
  for (;;) {
    const ChurnSchedule::Step step = schedule.Next();
    if (!SleepUntil(start + step.due, order)) return;
    const absl::Duration late = absl::Now() - (start + step.due);
    if (late > kMaxBacklog) start += late;
    if (absl::Status done = operations_.Run(step.kind, step.random).status(); !done.ok()) {
      absl::MutexLock lock(&mutex_);
      failure_.Update(std::move(done));
      order_.running = false;
      ++order_.number;
      return;
    }
    done_[static_cast<size_t>(step.kind)].Add();
  }
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
