// Checks for bugs. A check that fails prints its text and two values to stderr and aborts the
// process, in release builds too. A condition that the outside world can cause (no memory, a
// failing system call, a wrong argument of a user) is not a bug and is not checked with this.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_MMU_BASE_CHECK_H_
#define UNDERFOOT_MMU_BASE_CHECK_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace underfoot {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what, uint64_t a,
                                     uint64_t b) {
  std::fprintf(stderr, "%s:%d: bug: %s (values 0x%llx, 0x%llx)\n", file, line, what,
               static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  std::abort();
}

}  // namespace underfoot

// `a` and `b` are two numbers that help to understand the failure; they are printed in hexadecimal.
#define UNDERFOOT_CHECK(condition, what, a, b)                                     \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::underfoot::CheckFailed(__FILE__, __LINE__, what, static_cast<uint64_t>(a), \
                               static_cast<uint64_t>(b));                          \
  } while (false)

#endif  // UNDERFOOT_MMU_BASE_CHECK_H_
