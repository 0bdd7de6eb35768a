// The functions of underfoot_hooks.h.

#include <cerrno>

#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"
#include "vmm/hooks/underfoot_hooks.h"

#define UNDERFOOT_EXPORT extern "C" __attribute__((visibility("default")))

UNDERFOOT_EXPORT int underfoot_attach(const underfoot_range* range, uint64_t* handle) {
  const int errno_before = errno;
  const int error = underfoot::hooks::Attach(*range, handle);
  errno = errno_before;
  return error;
}

UNDERFOOT_EXPORT int underfoot_detach(uint64_t handle) {
  const int errno_before = errno;
  const int error = underfoot::hooks::Detach(handle);
  errno = errno_before;
  return error;
}

UNDERFOOT_EXPORT uint32_t underfoot_hooks_version(void) { return UNDERFOOT_HOOKS_VERSION; }

UNDERFOOT_EXPORT int underfoot_uffd_writeprotect(int uffd, void* start, size_t length,
                                                 uint64_t mode) {
  return underfoot::hooks::UffdWriteProtect(uffd, start, length, mode);
}

UNDERFOOT_EXPORT ssize_t underfoot_uffd_move(int uffd, void* to, void* from, size_t length,
                                             uint64_t mode) {
  return underfoot::hooks::UffdMove(uffd, to, from, length, mode);
}
