#include "tests/bench/partner.h"

#include <sched.h>

#include <utility>

#include "mmu/base/ordering.h"
#include "tests/bench/cpus.h"

namespace underfoot::bench {

Partner::Partner(int cpu) : thread_([this, cpu] { Main(cpu); }) {}

Partner::~Partner() {
  wanted_.store(State::kEnding, kRelease);
  wanted_.notify_all();
  thread_.join();
}

void Partner::Main(int cpu) {
  const Pinned pinned(cpu);
  for (;;) {
    wanted_.wait(State::kIdle, kAcquire);
    if (wanted_.load(kAcquire) == State::kEnding) return;
    while (wanted_.load(kAcquire) == State::kWorking) {
      step_();
      // Relaxed load: this thread alone writes it.
      steps_.store(steps_.load(kRelaxed) + 1, kRelease);
    }
    current_.store(State::kIdle, kRelease);
    current_.notify_all();
  }
}

Partner::Work::Work(Partner& partner, std::function<void()> step) : partner_(partner) {
  partner_.step_ = std::move(step);
  partner_.current_.store(State::kWorking, kRelaxed);  // published by the next store
  const uint64_t before = steps();
  partner_.wanted_.store(State::kWorking, kRelease);
  partner_.wanted_.notify_all();
  while (steps() == before) sched_yield();
}

Partner::Work::~Work() {
  partner_.wanted_.store(State::kIdle, kRelease);
  partner_.current_.wait(State::kWorking, kAcquire);
}

void Partner::Work::WaitForSteps(uint64_t more) const {
  const uint64_t target = steps() + more;
  for (unsigned spins = 0; steps() < target; ++spins) {
    spins < 1000 ? CpuRelax() : static_cast<void>(sched_yield());
  }
}

}  // namespace underfoot::bench
