// The functions of underfoot_hooks.h.

#include <cerrno>

#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"
#include "vmm/hooks/selftest.h"
#include "vmm/hooks/underfoot_hooks.h"

#define UNDERFOOT_EXPORT extern "C" __attribute__((visibility("default")))

UNDERFOOT_EXPORT int underfoot_attach(const underfoot_range* range, uint64_t* handle) {
  const int errno_before = errno;
  int error = 0;
  if ((range->flags & UNDERFOOT_ACCEPT_UNSEEN) == 0) error = underfoot::hooks::CheckNames();
  if (error == 0) error = underfoot::hooks::Attach(*range, handle);
  errno = errno_before;
  return error;
}

UNDERFOOT_EXPORT int underfoot_detach(uint64_t handle) {
  const int errno_before = errno;
  const int error = underfoot::hooks::Detach(handle);
  errno = errno_before;
  return error;
}

UNDERFOOT_EXPORT uint32_t underfoot_hooks_selftest(void) {
  const int errno_before = errno;
  const uint32_t seen = underfoot::hooks::SelfTest();
  errno = errno_before;
  return seen;
}

UNDERFOOT_EXPORT const char* underfoot_hooks_name(unsigned bit) {
  return underfoot::hooks::NameOf(bit);
}

UNDERFOOT_EXPORT const char* underfoot_strerror(int error) {
  switch (error) {
    case 0:
      return "no error";
    case EINVAL:
      return "EINVAL: a range needs whole pages of 4096 bytes, both callbacks, and known flags";
    case EBADF:
      return "EBADF: fd is not an open descriptor; -1 means that no file is mapped there";
    case ENOSPC:
      return "ENOSPC: UNDERFOOT_MAX_RANGES ranges are attached; detach one";
    case ENOMEM:
      return "ENOMEM: there is no memory for the table of ranges";
    case ENOENT:
      return "ENOENT: no range of this process is attached by this handle";
    case ENOTSUP:
      return underfoot::hooks::WhatIsUnseen();
    default:
      return "an error that these functions do not return";
  }
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
