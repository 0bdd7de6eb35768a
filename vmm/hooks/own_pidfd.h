// The arguments of process_madvise(2): the process that it acts on, and the ranges.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_
#define UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace underfoot::hooks {

// The largest number of iovecs that the kernel accepts in a call.
inline constexpr size_t kMaxIovecs = 1024;

// Whether `pidfd` may refer to this process or one of its threads. Returns true if that cannot be
// found out (no /proc): an unnecessary bracket is harmless.
bool MayBeOwnPidfd(int pidfd);

// Copies memory that may be unmapped, as the kernel would. False: EFAULT.
bool CopyFromCaller(void* to, const void* from, size_t bytes);

// Calls `take` for each iovec. Ends at the first one that cannot be read, as the kernel does.
template <class Take>
void ForEachIovec(const iovec* ranges, size_t count, const Take& take) {
  std::array<iovec, 8> some;  // few, because the stack may be small
  for (size_t done = 0; done < count; done += some.size()) {
    const size_t n = std::min(count - done, some.size());
    if (!CopyFromCaller(some.data(), ranges + done, n * sizeof(iovec))) return;
    for (size_t i = 0; i < n; ++i) take(some[i]);
  }
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_OWN_PIDFD_H_
