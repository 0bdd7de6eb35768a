// Short names for the memory orders that the protocols of this library use. LOCKING.md ("The memory
// orders") lists each atomic with its partner.
//
// Thread safety: constants and pure functions.

#ifndef UNDERFOOT_MMU_BASE_ORDERING_H_
#define UNDERFOOT_MMU_BASE_ORDERING_H_

#include <atomic>

namespace underfoot {

// For store buffering: each of two threads writes its own word and then reads the word of the
// other. Examples: an installer's claim against a range in flight, a reader's slot against a
// translation that Begin empties. All four accesses must be part of one total order; otherwise both
// threads may read the old value. kStoreLoad stands only on read-modify-writes and loads, which on
// x86 are a locked instruction and a plain mov. A fence or a seq_cst store would cost more.
inline constexpr std::memory_order kStoreLoad = std::memory_order::seq_cst;

inline constexpr std::memory_order kAcquire = std::memory_order::acquire;
inline constexpr std::memory_order kRelease = std::memory_order::release;
inline constexpr std::memory_order kAcqRel = std::memory_order::acq_rel;
inline constexpr std::memory_order kRelaxed = std::memory_order::relaxed;

// Hints to the CPU that this is a spin-wait loop.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_ORDERING_H_
