/* Another tool's munmap, and a library that calls munmap. With DEAF in the environment it does not
 * hand the call on. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int other_calls;

int munmap(void* start, size_t length) {
  ++other_calls;
  if (getenv("DEAF") != NULL) return (int)syscall(SYS_munmap, start, length);
  int (*next)(void*, size_t);
  *(void**)&next = dlsym(RTLD_NEXT, "munmap");
  return next(start, length);
}
