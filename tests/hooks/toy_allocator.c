#define _GNU_SOURCE

#include "tests/hooks/toy_allocator.h"

#include <stdlib.h>
#include <sys/mman.h>

void ToyFree(void* pages, size_t bytes) {
  if (madvise(pages, bytes, MADV_DONTNEED) != 0) abort();
}
