// Single instructions that C++ cannot express.
//
// Data memory (above the system area) is accessed only by Load and Store: one plain 8-byte mov
// each. Its memslot may be deleted for a moment, and KVM then emulates the instruction.

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

// For the registers of virtio devices.
inline uint32_t Load32(uint64_t gpa) {
  uint32_t value;
  __asm__ __volatile__("movl (%1), %0" : "=r"(value) : "r"(gpa) : "memory");
  return value;
}

inline void Store32(uint64_t gpa, uint32_t value) {
  __asm__ __volatile__("movl %1, (%0)" : : "r"(gpa), "r"(value) : "memory");
}

// No load that follows is made before a store that precedes.
inline void StoreLoadFence() {
  uint64_t unused = 0;
  __atomic_exchange_n(&unused, 1, __ATOMIC_SEQ_CST);
}

inline void Out8(uint16_t port, uint8_t value) {
  __asm__ __volatile__("outb %0, %1" : : "a"(value), "d"(port) : "memory");
}

inline void Out32(uint16_t port, uint32_t value) {
  __asm__ __volatile__("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

inline uint32_t In32(uint16_t port) {
  uint32_t value;
  __asm__ __volatile__("inl %1, %0" : "=a"(value) : "d"(port) : "memory");
  return value;
}

inline void Pause() { __asm__ __volatile__("pause" : : : "memory"); }

// For words of the system area that the VMM or another vCPU reads or writes at the same time.
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
// For words whose only writer is the caller.
inline void Add(uint64_t& word, uint64_t n) { Poke(word, Peek(word) + n); }

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_INTRINSICS_H_
