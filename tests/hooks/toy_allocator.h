/* A library that knows nothing of hooks and gives pages back. */

#ifndef UNDERFOOT_TESTS_HOOKS_TOY_ALLOCATOR_H_
#define UNDERFOOT_TESTS_HOOKS_TOY_ALLOCATOR_H_

#include <stddef.h>

void ToyFree(void* pages, size_t bytes);

#endif /* UNDERFOOT_TESTS_HOOKS_TOY_ALLOCATOR_H_ */
