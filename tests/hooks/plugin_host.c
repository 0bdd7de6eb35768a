/* A program that knows nothing of hooks and opens the library as a plugin does. Prints what attach
 * says of a page, how many begins an munmap of the page had, and how many calls of munmap another
 * tool has seen. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>

#include "underfoot_hooks.h"

static volatile int begins;

static void Begin(void* context, struct underfoot_change* change) {
  (void)context;
  (void)change;
  ++begins;
}

static void End(void* context, struct underfoot_change* change) {
  (void)context;
  (void)change;
}

int main(int count, char** arguments) {
  void* const library = dlopen(count > 1 ? arguments[1] : "", RTLD_NOW);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int (*attach)(const struct underfoot_range*, uint64_t*);
  const char* (*text)(int);
  *(void**)&attach = dlsym(library, "underfoot_attach");
  *(void**)&text = dlsym(library, "underfoot_strerror");
  int* const other_calls = dlsym(RTLD_DEFAULT, "other_calls");
  void* const page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const struct underfoot_range range = {
      .start = page, .length = 4096, .fd = -1, .begin = Begin, .end = End};
  uint64_t handle = 0;
  const int error = attach(&range, &handle);
  const int before = other_calls == NULL ? 0 : *other_calls;
  munmap(page, 4096);
  printf("%s; begins %d; other %d\n", text(error), begins,
         other_calls == NULL ? 0 : *other_calls - before);
  return 0;
}
