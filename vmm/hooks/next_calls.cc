#include "vmm/hooks/next_calls.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdarg>

// The C library's sbrk under its second name, which no interposer defines. The C library keeps the
// end of the heap in a variable of its own; a brk system call that bypasses the C library would
// corrupt the heap.
extern "C" void* __sbrk(intptr_t);

namespace underfoot::hooks {
namespace {

int RawMadvise(void* start, size_t length, int advice) {
  return static_cast<int>(syscall(SYS_madvise, start, length, advice));
}

ssize_t RawProcessMadvise(int pidfd, const iovec* ranges, size_t count, int advice,
                          unsigned flags) {
  return syscall(SYS_process_madvise, pidfd, ranges, count, advice, flags);
}

int RawMunmap(void* start, size_t length) {
  return static_cast<int>(syscall(SYS_munmap, start, length));
}

void* RawMremap(void* old_start, size_t old_length, size_t new_length, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  void* const new_start = va_arg(arguments, void*);
  va_end(arguments);
  return std::bit_cast<void*>(
      syscall(SYS_mremap, old_start, old_length, new_length, flags, new_start));
}

int RawMprotect(void* start, size_t length, int protection) {
  return static_cast<int>(syscall(SYS_mprotect, start, length, protection));
}

int RawPkeyMprotect(void* start, size_t length, int protection, int key) {
  return static_cast<int>(syscall(SYS_pkey_mprotect, start, length, protection, key));
}

void* RawMmap(void* start, size_t length, int protection, int flags, int fd, off_t offset) {
  return std::bit_cast<void*>(syscall(SYS_mmap, start, length, protection, flags, fd, offset));
}

int RawFallocate(int fd, int mode, off_t offset, off_t length) {
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, length));
}

int RawFtruncate(int fd, off_t length) {
  return static_cast<int>(syscall(SYS_ftruncate, fd, length));
}

int LibcBrk(void* end) {
  const auto* const now = static_cast<const char*>(__sbrk(0));
  return __sbrk(static_cast<const char*>(end) - now) == MAP_FAILED ? -1 : 0;
}

void* RawShmat(int segment, const void* start, int flags) {
  return std::bit_cast<void*>(syscall(SYS_shmat, segment, start, flags));
}

int RawShmdt(const void* start) { return static_cast<int>(syscall(SYS_shmdt, start)); }

}  // namespace

constinit NextCalls g_next{.madvise = NextCall(RawMadvise),
                           .process_madvise = NextCall(RawProcessMadvise),
                           .munmap = NextCall(RawMunmap),
                           .mremap = NextCall(RawMremap),
                           .mprotect = NextCall(RawMprotect),
                           .pkey_mprotect = NextCall(RawPkeyMprotect),
                           .mmap = NextCall(RawMmap),
                           .fallocate = NextCall(RawFallocate),
                           .ftruncate = NextCall(RawFtruncate),
                           .brk = NextCall(LibcBrk),
                           .sbrk = NextCall(__sbrk),
                           .shmat = NextCall(RawShmat),
                           .shmdt = NextCall(RawShmdt)};

}  // namespace underfoot::hooks
