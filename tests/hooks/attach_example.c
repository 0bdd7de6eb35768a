/*
 * How another program uses libunderfoot_hooks: it attaches a range, and whatever a library of the
 * process does to it is told before and after. Exits with 0 if all that was told is what happened.
 *
 * A complete program; from the project's folder, with `build` being where it was built:
 *
 *   cc -std=c11 -Ivmm/hooks tests/hooks/attach_example.c -Lbuild -lunderfoot_hooks -Wl,-rpath,build
 */

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "underfoot_hooks.h"

enum { kPage = 4096, kPages = 64, kThreads = 4, kRounds = 2000 };

static atomic_int begins;
static atomic_int ends;
static atomic_int in_flight;
static atomic_int page_was_there;
static atomic_int page_is_gone;

#define CHECK(what)                                                                        \
  do {                                                                                     \
    if (!(what)) {                                                                         \
      fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #what, errno); \
      exit(1);                                                                             \
    }                                                                                      \
  } while (0)

/* Gives pages back by madvise, as allocators do, and knows nothing of hooks. */
static void ToyFree(void* pages, size_t bytes) { CHECK(madvise(pages, bytes, MADV_DONTNEED) == 0); }

static int IsPresent(const void* page) {
  unsigned char present = 0;
  CHECK(mincore((void*)page, kPage, &present) == 0);
  return present & 1;
}

static void Begin(void* context, struct underfoot_change* change) {
  (void)context;
  atomic_fetch_add(&begins, 1);
  atomic_fetch_add(&in_flight, 1);
  change->scratch[0] = (uint64_t)(uintptr_t)change->start;
  atomic_store(&page_was_there, IsPresent(change->start));
}

static void End(void* context, struct underfoot_change* change) {
  (void)context;
  CHECK(change->scratch[0] == (uint64_t)(uintptr_t)change->start);
  atomic_fetch_sub(&in_flight, 1);
  atomic_fetch_add(&ends, 1);
  atomic_store(&page_is_gone, !IsPresent(change->start));
}

static void* Churn(void* argument) {
  char* const mine = argument;
  for (int i = 0; i < kRounds; ++i) {
    mine[0] = 1;
    ToyFree(mine, kPage);
  }
  return NULL;
}

static void CheckOneCall(char* memory) {
  memory[kPage] = 7;
  ToyFree(memory + kPage, kPage);
  CHECK(atomic_load(&begins) == 1 && atomic_load(&ends) == 1);
  CHECK(atomic_load(&page_was_there) && atomic_load(&page_is_gone));
  CHECK(memory[kPage] == 0);
}

static void CheckManyThreads(char* memory) {
  const int before = atomic_load(&begins);
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    CHECK(pthread_create(&threads[i], NULL, Churn, memory + i * kPage) == 0);
  }
  for (int i = 0; i < kThreads; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(atomic_load(&begins) == before + kThreads * kRounds);
  CHECK(atomic_load(&ends) == atomic_load(&begins) && atomic_load(&in_flight) == 0);
}

/* The child has nothing attached: its calls are its own. */
static void CheckChild(char* memory) {
  const int before = atomic_load(&begins);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    ToyFree(memory, kPage);
    _exit(atomic_load(&begins) == before ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
  CHECK(underfoot_hooks_version() >> 16 == UNDERFOOT_HOOKS_VERSION >> 16);
  char* const memory =
      mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  struct underfoot_range range = {
      .start = memory, .length = (kPages / 2) * kPage, .fd = -1, .begin = Begin, .end = End};
  uint64_t handle = 0;
  const int error = underfoot_attach(&range, &handle);
  if (error != 0) {
    fprintf(stderr, "underfoot_attach: %s\n", underfoot_strerror(error));
    return 1;
  }
  CheckOneCall(memory);
  ToyFree(memory + (kPages / 2) * kPage, kPage); /* beside the range */
  CHECK(atomic_load(&begins) == 1);
  CheckManyThreads(memory);
  CheckChild(memory);
  errno = 0;
  CHECK(madvise(memory + 1, kPage, MADV_DONTNEED) == -1 && errno == EINVAL);
  CHECK(atomic_load(&ends) == atomic_load(&begins));
  CHECK(underfoot_detach(handle) == 0 && underfoot_detach(handle) == ENOENT);
  const int before = atomic_load(&begins);
  ToyFree(memory, kPage);
  CHECK(munmap(memory, kPages * kPage) == 0);
  CHECK(atomic_load(&begins) == before);
  printf("%d changes told\n", before);
  return 0;
}
