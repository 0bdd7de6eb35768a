// The arguments of process_madvise(2): whose memory it is about, and which ranges of it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_
#define UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace underfoot::hooks {

// What the kernel takes at most in a call.
inline constexpr size_t kMaxIovecs = 1024;

// Whether `pidfd` may stand for this process or one of its threads. Says yes where it cannot tell
// (no /proc): a bracket too many is harmless.
bool MayBeOwnPidfd(int pidfd);

// Copies memory that may not be there, as the kernel would. False: EFAULT.
bool CopyFromCaller(void* to, const void* from, size_t bytes);

// Calls `take` for each of the iovecs; ends at one that cannot be read, as the kernel does.
template <class Take>
void ForEachIovec(const iovec* ranges, size_t count, const Take& take) {
  std::array<iovec, 64> some;
  for (size_t done = 0; done < count; done += some.size()) {
    const size_t n = std::min(count - done, some.size());
    if (!CopyFromCaller(some.data(), ranges + done, n * sizeof(iovec))) return;
    for (size_t i = 0; i < n; ++i) take(some[i]);
  }
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_
