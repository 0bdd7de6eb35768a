// A memory barrier in all threads of the process that one thread requests (membarrier(2), private
// expedited). The other threads then need no barrier of their own in the code that pairs with it:
// see mmu/readers/reader_bias.h.
//
// Thread safety: any thread.
// Errors: RegisterMembarrier returns false if the kernel has no such barrier. Membarrier aborts if
// the kernel refuses it.

#ifndef UNDERFOOT_MMU_BASE_MEMBARRIER_H_
#define UNDERFOOT_MMU_BASE_MEMBARRIER_H_

namespace underfoot {

// Must be called before the first Membarrier. Returns false if the kernel has no such barrier. A
// repeated call is cheap.
[[nodiscard]] bool RegisterMembarrier();

// Every thread of the process executes a full barrier between the call and the return. This takes
// microseconds (`./dev bench --only 14`): the kernel interrupts each CPU that runs a thread of the
// process, and a vCPU that runs there leaves its guest.
void Membarrier();

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_MEMBARRIER_H_
