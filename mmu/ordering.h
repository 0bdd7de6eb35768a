// The memory orders that the protocols of this library name. Everything else is written out at its
// use.

#ifndef UNDERFOOT_MMU_ORDERING_H_
#define UNDERFOOT_MMU_ORDERING_H_

#include <atomic>

namespace underfoot {

// For the four-corner races in which each of two threads writes its own word and then reads the
// other's (store buffering): claim against range in flight, reader slot against cleared
// translation. Both sides must agree on one order of all four steps, or both miss each other. Only
// used on read-modify-writes and loads, which on x86 are a locked instruction and a plain mov: a
// fence or a store would cost more.
inline constexpr std::memory_order kStoreLoad = std::memory_order::seq_cst;

inline constexpr std::memory_order kAcquire = std::memory_order::acquire;
inline constexpr std::memory_order kRelease = std::memory_order::release;
inline constexpr std::memory_order kAcqRel = std::memory_order::acq_rel;
inline constexpr std::memory_order kRelaxed = std::memory_order::relaxed;

// Tells the CPU that this is a spin-wait loop.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_ORDERING_H_
