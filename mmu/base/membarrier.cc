#include "mmu/base/membarrier.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mmu/base/check.h"

namespace underfoot {

bool RegisterMembarrier() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void Membarrier() {
  const long result = syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
  UNDERFOOT_CHECK(result == 0, "a membarrier failed: its result, its command", result,
                  MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

}  // namespace underfoot
