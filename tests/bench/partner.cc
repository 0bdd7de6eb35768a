#include "tests/bench/partner.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "mmu/base/ordering.h"
#include "tests/bench/cpus.h"

namespace underfoot::bench {

namespace {

// Not std::atomic's own wait: libstdc++ keeps a few places for all words that a thread waits on. While a
// partner sleeps in one of them, a notify of another word with the same place, as in each Begin, may
// become a system call, and the variant without a busy partner would be slower for that.
void FutexCall(const void* word, int operation, uint32_t value) {
  static_cast<void>(syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0));
}

}  // namespace

Partner::Partner(int cpu) : thread_([this, cpu] { Main(cpu); }) {}

Partner::~Partner() {
  wanted_.store(State::kEnding, kRelease);
  FutexCall(&wanted_, FUTEX_WAKE_PRIVATE, 1);
  thread_.join();
}

void Partner::Main(int cpu) {
  const Pinned pinned(cpu);
  for (;;) {
    while (wanted_.load(kAcquire) == State::kIdle) {
      FutexCall(&wanted_, FUTEX_WAIT_PRIVATE, static_cast<uint32_t>(State::kIdle));
    }
    if (wanted_.load(kAcquire) == State::kEnding) return;
    while (wanted_.load(kAcquire) == State::kWorking) {
      step_();
      // Relaxed load: this thread alone writes it.
      steps_.store(steps_.load(kRelaxed) + 1, kRelease);
    }
    current_.store(State::kIdle, kRelease);
  }
}

Partner::Work::Work(Partner& partner, std::function<void()> step) : partner_(partner) {
  partner_.step_ = std::move(step);
  partner_.current_.store(State::kWorking, kRelaxed);  // published by the next store
  const uint64_t before = steps();
  partner_.wanted_.store(State::kWorking, kRelease);
  FutexCall(&partner_.wanted_, FUTEX_WAKE_PRIVATE, 1);
  while (steps() == before) sched_yield();
}

Partner::Work::~Work() {
  partner_.wanted_.store(State::kIdle, kRelease);
  while (partner_.current_.load(kAcquire) == State::kWorking) sched_yield();
}

void Partner::Work::WaitForSteps(uint64_t more) const {
  const uint64_t target = steps() + more;
  for (unsigned spins = 0; steps() < target; ++spins) {
    spins < 1000 ? CpuRelax() : static_cast<void>(sched_yield());
  }
}

}  // namespace underfoot::bench
