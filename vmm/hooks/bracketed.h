// A call between the begin and the end of what it touches of attached ranges.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_HOOKS_BRACKETED_H_
#define UNDERFOOT_VMM_HOOKS_BRACKETED_H_

#include <sys/mman.h>
#include <sys/types.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/hooks/bracket.h"

namespace underfoot::hooks {

// The range of `length` bytes at `start`. If its end wraps around, the range ends with the address
// space.
inline HvaRange RangeAt(const void* start, size_t length) {
  const uint64_t begin = HvaOf(start).value;
  const uint64_t end = begin + length < begin ? UINT64_MAX : begin + length;
  return {{begin}, {end}};
}

// -1 on failure, as a system call's result.
inline bool Failed(int result) { return result == -1; }
inline bool Failed(ssize_t result) { return result == -1; }
inline bool Failed(const void* result) { return result == MAP_FAILED; }

// The result of a call that failed.
template <class Result>
Result Failure() {
  return static_cast<Result>(-1);
}
template <>
inline void* Failure<void*>() {
  return MAP_FAILED;
}

// Out of line, with its stack: calls that touch nothing do not come here.
template <class Collect, class Call>
[[gnu::noinline]] auto Bracketed(underfoot_call call, underfoot_effect effect, int argument,
                                 const Collect& collect, const Call& next) {
  const int errno_before = errno;
  Bracket bracket;
  collect(bracket);
  if (!bracket.complete()) {
    errno = ENOMEM;
    return Failure<decltype(next())>();
  }
  bracket.Begin(call, effect, argument);
  const MappingTurn turn(bracket.NeedsTurn(call));
  errno = errno_before;
  const auto result = next();
  const int errno_after = errno;
  bracket.End(Failed(result) ? errno_after : 0);
  errno = errno_after;
  return result;
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_BRACKETED_H_
