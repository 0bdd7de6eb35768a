// The functions to which a hooked call is passed on: the next definition of the same name in the
// dynamic linker's search order (another tool's, or the C library's).
//
// Until interpose.cc has looked the names up, and in programs that do not interpose the names,
// these are the system calls themselves.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_HOOKS_NEXT_CALLS_H_
#define UNDERFOOT_VMM_HOOKS_NEXT_CALLS_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace underfoot::hooks {

// One function. Relaxed: every value that it ever has is valid, and it points to code, not to data.
template <class Function>
class NextCall {
 public:
  constexpr explicit NextCall(Function* system_call) : function_(system_call) {}

  template <class... Arguments>
  auto operator()(Arguments... arguments) const {
    return function_.load(std::memory_order::relaxed)(arguments...);
  }
  // Null: nothing changes.
  void Set(Function* function) {
    if (function != nullptr) function_.store(function, std::memory_order::relaxed);
  }

 private:
  std::atomic<Function*> function_;
};

struct NextCalls {
  NextCall<int(void*, size_t, int)> madvise;
  NextCall<ssize_t(int, const iovec*, size_t, int, unsigned)> process_madvise;
  NextCall<int(void*, size_t)> munmap;
  NextCall<void*(void*, size_t, size_t, int, ...)> mremap;
  NextCall<int(void*, size_t, int)> mprotect;
  NextCall<int(void*, size_t, int, int)> pkey_mprotect;
  NextCall<void*(void*, size_t, int, int, int, off_t)> mmap;
  NextCall<int(int, int, off_t, off_t)> fallocate;
  NextCall<int(int, off_t)> ftruncate;
  NextCall<int(void*)> brk;
  NextCall<void*(intptr_t)> sbrk;
  NextCall<void*(int, const void*, int)> shmat;
  NextCall<int(const void*)> shmdt;
};

extern NextCalls g_next;

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_NEXT_CALLS_H_
