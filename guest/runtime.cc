// Functions that a compiler may call implicitly.

#include <cstddef>

extern "C" void* memset(void* to, int value, size_t size) {
  void* cursor = to;
  __asm__ __volatile__("rep stosb" : "+D"(cursor), "+c"(size) : "a"(value) : "memory");
  return to;
}

extern "C" void* memcpy(void* to, const void* from, size_t size) {
  void* cursor = to;
  __asm__ __volatile__("rep movsb" : "+D"(cursor), "+S"(from), "+c"(size) : : "memory");
  return to;
}
