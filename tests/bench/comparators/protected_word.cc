#include "tests/bench/comparators/protected_word.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mmu/check.h"

namespace underfoot::bench {
namespace {

void MemoryBarrierOfAllThreads(int command) {
  const long result = syscall(SYS_membarrier, command, 0, 0);
  UNDERFOOT_CHECK(result == 0, "membarrier failed", command, result);
}

}  // namespace

AsymmetricWord::AsymmetricWord() {
  MemoryBarrierOfAllThreads(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

void AsymmetricWord::Invalidate() {
  word_.SetValid(false);
  MemoryBarrierOfAllThreads(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
  while (slot_.load(kAcquire) != 0) CpuRelax();
}

}  // namespace underfoot::bench
