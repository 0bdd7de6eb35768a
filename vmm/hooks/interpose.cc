// The libc names, so that a library in this process goes through the hooks too. They make the
// system calls themselves, so no real function must be looked up, and they work from the first
// instruction on.
//
// Not in sanitizer builds: their run-time libraries take the same names.
//
// Thread safety: as calls.h.

#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <cstdarg>
#include <cstddef>

#include "vmm/hooks/calls.h"

namespace hooks = underfoot::hooks;

#define UNDERFOOT_EXPORT extern "C" __attribute__((visibility("default")))

UNDERFOOT_EXPORT int madvise(void* start, size_t length, int advice) noexcept {
  return hooks::Madvise(start, length, advice);
}

UNDERFOOT_EXPORT ssize_t process_madvise(int pidfd, const iovec* ranges, size_t count, int advice,
                                         unsigned flags) noexcept {
  return hooks::ProcessMadvise(pidfd, ranges, count, advice, flags);
}

UNDERFOOT_EXPORT int munmap(void* start, size_t length) noexcept {
  return hooks::Munmap(start, length);
}

UNDERFOOT_EXPORT void* mremap(void* old_start, size_t old_length, size_t new_length, int flags,
                              ...) noexcept {
  void* new_start = nullptr;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    new_start = va_arg(arguments, void*);
    va_end(arguments);
  }
  return hooks::Mremap(old_start, old_length, new_length, flags, new_start);
}

UNDERFOOT_EXPORT int mprotect(void* start, size_t length, int protection) noexcept {
  return hooks::Mprotect(start, length, protection);
}

UNDERFOOT_EXPORT int pkey_mprotect(void* start, size_t length, int protection, int key) noexcept {
  // As libc does: kernels without protection keys know mprotect only.
  return key == -1 ? hooks::Mprotect(start, length, protection)
                   : hooks::PkeyMprotect(start, length, protection, key);
}

UNDERFOOT_EXPORT void* mmap(void* start, size_t length, int protection, int flags, int fd,
                            off_t offset) noexcept {
  return hooks::Mmap(start, length, protection, flags, fd, offset);
}

UNDERFOOT_EXPORT void* mmap64(void* start, size_t length, int protection, int flags, int fd,
                              off64_t offset) noexcept {
  return hooks::Mmap(start, length, protection, flags, fd, offset);
}

UNDERFOOT_EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
  return hooks::Fallocate(fd, mode, offset, length);
}

UNDERFOOT_EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  return hooks::Fallocate(fd, mode, offset, length);
}

UNDERFOOT_EXPORT int ftruncate(int fd, off_t length) noexcept {
  return hooks::Ftruncate(fd, length);
}

UNDERFOOT_EXPORT int ftruncate64(int fd, off64_t length) noexcept {
  return hooks::Ftruncate(fd, length);
}
