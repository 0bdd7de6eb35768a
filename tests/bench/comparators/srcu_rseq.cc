#include "tests/bench/comparators/srcu_rseq.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mmu/base/check.h"
#include "tests/bench/cpus.h"

namespace underfoot::bench {
namespace {

long MembarrierCall(int command) { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace

std::string SrcuRseq::UnavailableReason() {
  if (__rseq_size == 0) {
    return "no rseq area is registered: the kernel has no rseq, or GLIBC_TUNABLES has "
           "glibc.pthread.rseq=0";
  }
  if (MembarrierCall(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ) != 0) {
    return "the kernel has no membarrier that restarts sequences (Linux 5.10 has it)";
  }
  return "";
}

SrcuRseq::SrcuRseq() : counters_(static_cast<size_t>(AllowedCpus().back()) + 1) {
  UNDERFOOT_CHECK(UnavailableReason().empty(), "no rseq: the size of its area", __rseq_size, 0);
}

uint64_t SrcuRseq::SumOf(std::atomic<uint64_t> Counters::Phase::*counter, size_t phase) const {
  uint64_t sum = 0;
  for (const Counters& counters : counters_) {
    sum += (counters.phases[phase].*counter).load(kAcquire);
  }
  return sum;
}

uint64_t SrcuRseq::Entries() const {
  return SumOf(&Counters::Phase::entered, 0) + SumOf(&Counters::Phase::entered, 1);
}

// After the membarrier no reader enters the old phase, so the sum of `entered` does not change.
void SrcuRseq::Synchronize() {
  const uint64_t old = phase_.load(kRelaxed);
  phase_.store(old == 0 ? sizeof(Counters::Phase) : 0, kRelaxed);
  const long result = MembarrierCall(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ);
  UNDERFOOT_CHECK(result == 0, "a membarrier failed: its result, its command", result,
                  MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ);
  const size_t phase = old / sizeof(Counters::Phase);
  const uint64_t entered = SumOf(&Counters::Phase::entered, phase);
  while (SumOf(&Counters::Phase::left, phase) != entered) CpuRelax();
}

}  // namespace underfoot::bench
