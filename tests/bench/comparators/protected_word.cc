#include "tests/bench/comparators/protected_word.h"

#include "mmu/base/check.h"
#include "mmu/base/membarrier.h"

namespace underfoot::bench {

AsymmetricWord::AsymmetricWord() {
  UNDERFOOT_CHECK(RegisterMembarrier(), "the kernel has no membarrier", 0, 0);
}

void AsymmetricWord::Invalidate() {
  word_.SetValid(false);
  Membarrier();
  while (slot_.load(kAcquire) != 0) CpuRelax();
}

}  // namespace underfoot::bench
