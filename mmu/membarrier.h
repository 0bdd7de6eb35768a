// A memory barrier in all threads of the process, asked for by one of them: what lets the others do
// without one (mmu/reader_bias.h).
//
// Thread safety: any thread.

#ifndef UNDERFOOT_MMU_MEMBARRIER_H_
#define UNDERFOOT_MMU_MEMBARRIER_H_

namespace underfoot {

// False where the kernel has no such barrier. Before the first one; cheap when repeated.
[[nodiscard]] bool RegisterMembarrier();

// Each thread passes a full barrier between the call and the return. Some microseconds: every CPU
// that runs a thread of the process is interrupted, a vCPU leaves its guest.
void Membarrier();

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MEMBARRIER_H_
