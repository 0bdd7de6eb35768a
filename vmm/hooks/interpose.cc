// Defines the libc names, so that calls of a library in this process go through the hooks too. They
// work from the first instruction of the process on: until the constructor here has looked up the
// next functions of these names, they make the system calls themselves.
//
// Not in sanitizer builds: the run-time libraries of sanitizers define the same names.
//
// Thread safety: see calls.h.

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>

#include "vmm/hooks/calls.h"
#include "vmm/hooks/next_calls.h"

namespace hooks = underfoot::hooks;

#define UNDERFOOT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

template <class Function>
void LookUp(const char* name, hooks::NextCall<Function>& next) {
  next.Set(reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name)));
}

__attribute__((constructor(101))) void LookUpTheNextCalls() {
  LookUp("madvise", hooks::g_next.madvise);
  LookUp("process_madvise", hooks::g_next.process_madvise);
  LookUp("munmap", hooks::g_next.munmap);
  LookUp("mremap", hooks::g_next.mremap);
  LookUp("mprotect", hooks::g_next.mprotect);
  LookUp("pkey_mprotect", hooks::g_next.pkey_mprotect);
  LookUp("mmap", hooks::g_next.mmap);
  LookUp("fallocate", hooks::g_next.fallocate);
  LookUp("ftruncate", hooks::g_next.ftruncate);
  LookUp("brk", hooks::g_next.brk);
  LookUp("sbrk", hooks::g_next.sbrk);
  LookUp("shmat", hooks::g_next.shmat);
  LookUp("shmdt", hooks::g_next.shmdt);
}

}  // namespace

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
  // Like libc: kernels without protection keys know only mprotect.
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

UNDERFOOT_EXPORT int brk(void* end) noexcept { return hooks::Brk(end); }

UNDERFOOT_EXPORT void* sbrk(intptr_t bytes) noexcept { return hooks::Sbrk(bytes); }

UNDERFOOT_EXPORT void* shmat(int segment, const void* start, int flags) noexcept {
  return hooks::Shmat(segment, start, flags);
}

UNDERFOOT_EXPORT int shmdt(const void* start) noexcept { return hooks::Shmdt(start); }
