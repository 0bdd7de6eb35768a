// Single instructions that C++ has no words for.
//
// Data memory (above the system area) is accessed by Load and Store only: one plain 8-byte mov
// each. Its memslot may be away for a moment, and KVM then emulates the instruction.

#ifndef UNDERFOOT_GUEST_INTRINSICS_H_
#define UNDERFOOT_GUEST_INTRINSICS_H_

#include <cstdint>

namespace underfoot::guest {

inline uint64_t Load(uint64_t gpa) {
  uint64_t value;
  __asm__ __volatile__("movq (%1), %0" : "=r"(value) : "r"(gpa) : "memory");
  return value;
}

inline void Store(uint64_t gpa, uint64_t value) {
  __asm__ __volatile__("movq %1, (%0)" : : "r"(gpa), "r"(value) : "memory");
}

inline void Out8(uint16_t port, uint8_t value) {
  __asm__ __volatile__("outb %0, %1" : : "a"(value), "d"(port) : "memory");
}

inline void Out32(uint16_t port, uint32_t value) {
  __asm__ __volatile__("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

inline void Pause() { __asm__ __volatile__("pause" : : : "memory"); }

// Words of the system area that the VMM or another vCPU writes or reads meanwhile.
template <class T>
T Peek(const T& word) {
  T value;
  __atomic_load(&word, &value, __ATOMIC_RELAXED);
  return value;
}
template <class T>
void Poke(T& word, T value) {
  __atomic_store(&word, &value, __ATOMIC_RELAXED);
}
// For words with one writer, which is the caller.
inline void Add(uint64_t& word, uint64_t n) { Poke(word, Peek(word) + n); }

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_INTRINSICS_H_
